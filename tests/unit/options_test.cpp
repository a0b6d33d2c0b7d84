#include "core/options.h"

#include <limits>

#include "model_files.h"

namespace grinqh {
namespace {

struct EveryType {
  bool flag = false;
  int bits = 4;
  int64_t group = 128;
  double clip = 0.9;
  std::string score = "error", text = "as it is";
  std::vector<int> levels = {0, 2, 4, 8};
  std::vector<double> shares = {0.5};
  std::vector<std::string> layers = {"*"};
  template <class V>
  void fields(V& v) {
    v("flag", flag, "a switch");
    v("bits", bits, Range{2, 8}, "width of a code");
    v("group", group, Range{0, 1 << 20}, "weights that share a scale");
    v("clip", clip, Range{0.5, 1}, "share of the range");
    v("score", score, OneOf{{"magnitude", "error"}}, "what a channel is graded by");
    v("text", text, "anything");
    v("levels", levels, Range{0, 8}, "widths");
    v("shares", shares, Range{0, 1}, "shares");
    v("layers", layers, OneOf{{"*", "mlp"}}, "patterns");
  }
  void validate() const {
    if (bits == 7 && flag) bad_input("bits = 7 does not go with flag");
  }
};

Settings one(const std::string& key, Json value) { return {{key, {std::move(value), "file.toml:12"}}}; }

EveryType read(const Settings& settings) { return read_options<EveryType>(settings, "quantizer 'test'"); }

struct Refused {
  std::string name, key;
  Json value;
  std::vector<std::string> parts;  // of the message: what was found, what is allowed
};

class Options : public ::testing::TestWithParam<Refused> {};

TEST_P(Options, RefusalsNamePlaceKeyFoundAndAllowed) {
  const Refused& refused = GetParam();
  const std::string message = testing::refusal([&] { read(one(refused.key, refused.value)); });
  EXPECT_TRUE(message.starts_with("file.toml:12: ")) << message;
  EXPECT_THAT(message, ::testing::HasSubstr(refused.key));
  for (const std::string& part : refused.parts) EXPECT_THAT(message, ::testing::HasSubstr(part));
}

constexpr double kInfinity = std::numeric_limits<double>::infinity();

INSTANTIATE_TEST_SUITE_P(
    Refusals, Options,
    ::testing::Values(
        Refused{"BooleanFromInteger", "flag", 1, {"flag = 1", "expected true or false"}},
        Refused{"IntegerFromText", "bits", "four", {R"(bits = "four")", "expected an integer"}},
        Refused{"IntegerFromReal", "bits", 4.0, {"bits = 4.0", "expected an integer"}},
        Refused{"IntegerFromBoolean", "bits", true, {"bits = true", "expected an integer"}},
        Refused{"IntegerFromList", "bits", {4, 3}, {"bits = [4,3]", "expected an integer"}},
        Refused{"IntegerTooLow", "bits", 1, {"bits = 1", "allowed is 2 to 8"}},
        Refused{"IntegerTooHigh", "bits", 9, {"bits = 9", "allowed is 2 to 8"}},
        Refused{"IntegerTooWide", "bits", int64_t{1} << 40, {"1099511627776", "integers of 32 bits"}},
        Refused{"WideIntegerTooHigh", "group", int64_t{1} << 40, {"1099511627776", "0 to 1.04858e+06"}},
        Refused{"RealFromText", "clip", "half", {R"(clip = "half")", "expected a number"}},
        Refused{"RealTooLow", "clip", 0.25, {"clip = 0.25", "allowed is 0.5 to 1"}},
        Refused{"RealInfinite", "clip", kInfinity, {"clip = inf", "a finite number"}},
        Refused{"RealNotANumber", "clip", std::nan(""), {"clip = nan", "a finite number"}},
        Refused{"TextFromInteger", "text", 3, {"text = 3", "expected a string"}},
        Refused{"UnknownChoice",
                "score",
                "eror",
                {"unknown score 'eror'", "known: magnitude, error", "did you mean 'error'?"}},
        Refused{"ListFromInteger", "levels", 4, {"levels = 4", "expected a list of integers"}},
        Refused{"ListOfText", "levels", {"a"}, {R"(levels = ["a"])", "expected a list of integers"}},
        Refused{"ListElementTooHigh", "levels", {0, 9}, {"levels = [0,9]", "allowed is 0 to 8"}},
        Refused{"RealListElement", "shares", {0.5, "x"}, {R"([0.5,"x"])", "a list of numbers"}},
        Refused{"RealListElementTooHigh", "shares", {0.5, 1.5}, {"[0.5,1.5]", "allowed is 0 to 1"}},
        Refused{"TextListElement", "layers", {1}, {"layers = [1]", "a list of strings"}},
        Refused{"TextListChoice", "layers", {"mpl"}, {"'mpl'", "known: *, mlp", "did you mean 'mlp'?"}},
        Refused{"UnknownKey",
                "bit",
                4,
                {"quantizer 'test'", "'bit'", "known: flag, bits, group", "did you mean 'bits'?"}}),
    [](const auto& each) { return each.param.name; });

TEST(OptionValues, AreTakenOver) {
  const EveryType options = read({{"flag", {true, "f:1"}},
                                  {"bits", {3, "f:2"}},
                                  {"group", {0, "f:3"}},
                                  {"clip", {1, "f:4"}},  // an integer where a number is expected
                                  {"score", {"magnitude", "f:5"}},
                                  {"levels", {{1, 3}, "f:6"}},
                                  {"shares", {{0, 0.25}, "f:7"}},
                                  {"layers", {{"mlp"}, "f:8"}}});
  EXPECT_TRUE(options.flag);
  EXPECT_EQ(options.bits, 3);
  EXPECT_EQ(options.group, 0);
  EXPECT_EQ(options.clip, 1.0);
  EXPECT_EQ(options.score, "magnitude");
  EXPECT_EQ(options.levels, (std::vector<int>{1, 3}));
  EXPECT_EQ(options.shares, (std::vector<double>{0, 0.25}));
  EXPECT_EQ(options.layers, std::vector<std::string>{"mlp"});
}

TEST(OptionValues, LimitsAreAllowed) {
  for (const int bits : {2, 8}) EXPECT_EQ(read(one("bits", bits)).bits, bits);
  for (const double clip : {0.5, 1.0}) EXPECT_EQ(read(one("clip", clip)).clip, clip);
}

TEST(OptionValues, RulesAcrossFieldsNamePlaceAndOwner) {
  EXPECT_REFUSED(read({{"flag", {true, "file.toml:3"}}, {"bits", {7, "file.toml:2"}}}),
                 "file.toml:", "quantizer 'test'", "bits = 7 does not go with flag");
}

TEST(OptionValues, ArePrintedBackWithDefaultsInTheOrderOfDeclaration) {
  EXPECT_EQ(print_options(read(one("bits", 3))).dump(),
            R"({"flag":false,"bits":3,"group":128,"clip":0.9,"score":"error","text":"as it is",)"
            R"("levels":[0,2,4,8],"shares":[0.5],"layers":["*"]})");
}

TEST(OptionValues, WhatIsPrintedReadsBackAlike) {
  const Json printed = print_options(read(one("levels", {2, 4})));
  Settings settings;
  for (const auto& [key, value] : printed.items()) settings[key] = {value, "again"};
  EXPECT_EQ(print_options(read(settings)), printed);
}

TEST(OptionValues, AreDescribed) {
  const std::vector<OptionInfo> infos = describe_options<EveryType>();
  ASSERT_EQ(infos.size(), 9u);
  EXPECT_EQ(infos[1].name, "bits");
  EXPECT_EQ(infos[1].type, OptionType::integer);
  EXPECT_EQ(infos[1].default_value, 4);
  EXPECT_EQ(infos[1].allowed, "2 to 8");
  EXPECT_EQ(infos[1].help, "width of a code");
  EXPECT_EQ(infos[4].allowed, "'magnitude' or 'error'");
  EXPECT_EQ(infos[5].allowed, "");
  const std::vector<bool> lists{false, false, false, false, false, false, true, true, true};
  for (size_t i = 0; i < infos.size(); ++i) EXPECT_EQ(is_list(infos[i].type), lists[i]) << infos[i].name;
}

}  // namespace
}  // namespace grinqh
