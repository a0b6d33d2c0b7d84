// grinqh generate beside the library that it calls.
#include "runtime/generate.h"

#include <fmt/format.h>
#include "calib/calibration_windows.h"

#include "cli/program.h"
#include "core/registry.h"
#include "experiment/prepare.h"
#include "model/tokenizer.h"
#include "model_files.h"
#include "runnable_model.h"

namespace grinqh {
namespace {

using ::testing::AllOf;
using testing::embedded;
using testing::Finished;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::Words;

constexpr const char* kPrompt = "The old house stood";

Finished generate_with(const Words& more, const std::string& model = embedded("llama-tiny")) {
  Words words{"generate", "--model", model, "--prompt", kPrompt, "--tokens", "12"};
  words.insert(words.end(), more.begin(), more.end());
  return testing::run(words);
}

// The figure in front of `unit` on stderr.
double figure(const std::string& text, const std::string& unit) {
  const size_t end = text.find(unit);
  if (end == std::string::npos) return -1;
  const size_t begin = text.find_last_of(" (", end - 2);
  return std::stod(text.substr(begin + 1));
}

class Generate : public ::testing::Test {
 protected:
  std::vector<int32_t> prompt() const { return tokenizer_.encode(kPrompt, true); }
  // Greedy, or as sampled, by the library; decoded.
  std::string expected(LinearExecutor& linears, const Sampling& sampling = {}) const {
    const std::vector<int32_t> ids = prompt();
    const auto generated =
        generate(transformer_, linears, {ids.data(), 1, static_cast<int64_t>(ids.size())}, 12, sampling);
    return tokenizer_.decode(generated[0], true) + "\n";
  }

  Model model_ = load_model(embedded("llama-tiny"));
  Transformer transformer_{model_};
  Tokenizer tokenizer_{model_.folder / "tokenizer.json"};
};

TEST_F(Generate, GreedyAndSampledAsTheLibraryDoes) {
  FloatLinears linears;
  const Finished greedy = generate_with({});
  ASSERT_EQ(greedy.status, 0) << greedy.err;
  EXPECT_EQ(greedy.out, expected(linears));
  EXPECT_THAT(greedy.err,
              AllOf(HasSubstr(fmt::format("prompt of {} tokens", prompt().size())),
                    HasSubstr("12 tokens generated"), HasSubstr("tokens/s"), Not(HasSubstr("bits"))));
  EXPECT_EQ(generate_with({"--temperature", "0.8", "--seed", "5"}).out, expected(linears, {0.8, 5, 0}));
  EXPECT_NE(generate_with({"--temperature", "0.8", "--seed", "6"}).out, expected(linears, {0.8, 5, 0}));
  EXPECT_THAT(generate_with({"--tokens", "1"}).status, 2) << "an option given twice";
}

TEST_F(Generate, QuantizedByOneMethod) {
  const Finished rtn = generate_with({"--method", "quantizer = \"rtn\", bits = 2"});
  ASSERT_EQ(rtn.status, 0) << rtn.err;
  const MethodSpec method = read_single_method("quantizer = \"rtn\", bits = 2");
  const Calibrated calibrated = calibrate_and_quantize(
      transformer_, *Registry<Quantizer>::get().make(method.quantizer.name, method.quantizer.settings), {});
  const auto policy = prepare_policy(method, transformer_, calibrated, {});
  QuantizedLinears linears(calibrated.model, policy.get());
  EXPECT_EQ(rtn.out, expected(linears));
  FloatLinears floating;
  EXPECT_NE(rtn.out, expected(floating)) << "2 bits are not float";
  EXPECT_NEAR(figure(rtn.err, "bits read per weight"), calibrated.model.stored_bits(), 6e-4);
  EXPECT_THAT(rtn.err, HasSubstr("(codes 2.000)"));
  // Only some layers: the others are not counted.
  EXPECT_THAT(generate_with({"--method", "quantizer = \"rtn\", bits = 3, layers = [\"*layers.0.*\"]"}).err,
              HasSubstr("(codes 3.000)"));
}

TEST_F(Generate, GradedPrecisionReadsAboutItsBudget) {
  const testing::TempDir folder;
  const std::string text = testing::write_held_out(folder / "text.txt", 2000).string();
  const std::string method = "quantizer = \"grinqh\"\npolicy = { name = \"grinqh\", bits = 3.0 }\n";
  testing::write_file(folder / "method.toml", method);
  const Finished inline_text = generate_with({"--method", method, "--calibration", text});
  ASSERT_EQ(inline_text.status, 0) << inline_text.err;
  const double codes = std::stod(inline_text.err.substr(inline_text.err.find("(codes ") + 7));
  EXPECT_NEAR(codes, 3.0, 0.5);
  EXPECT_GT(figure(inline_text.err, "bits read per weight"), codes);
  const std::string file = (folder / "method.toml").string();
  EXPECT_EQ(generate_with({"--method", file, "--calibration", text}).out, inline_text.out);
}

TEST(GenerateTiny, CalibratesOnTheModelsOwnText) {
  const testing::TempDir folder;
  const std::string model = testing::write_runnable_model(folder / "m").string();
  const Finished finished = generate_with(
      {"--method", "quantizer = \"grinqh\", policy = { name = \"grinqh\", bits = 3.0 }"}, model);
  EXPECT_EQ(finished.status, 0) << finished.err;
  EXPECT_THAT(finished.err, HasSubstr("bits read per weight"));
}

TEST(GenerateTiny, StopsAtAnEndOfTextToken) {
  const testing::TempDir folder;
  Json config = testing::runnable_config();
  const std::string model = testing::write_runnable_model(folder / "m", config).string();
  const Model loaded = load_model(model);
  const Transformer transformer(loaded);
  const Tokenizer tokenizer(loaded.folder / "tokenizer.json");
  const std::vector<int32_t> ids = tokenizer.encode(kPrompt);
  FloatLinears linears;
  const auto tokens =
      generate(transformer, linears, {ids.data(), 1, static_cast<int64_t>(ids.size())}, 12, {})[0];
  // The first token that comes is the end of text: nothing but the line's end is left.
  config["eos_token_id"] = {263, tokens[0]};
  testing::write_file(folder / "m" / "config.json", config.dump());
  const Finished finished = generate_with({}, model);
  EXPECT_EQ(finished.status, 0) << finished.err;
  EXPECT_EQ(finished.out, "\n");
  EXPECT_THAT(finished.err, HasSubstr("1 tokens generated"));
}

// Bytes beyond ASCII are tokens of their own here: what is written is the whole text decoded at once, however
// its characters came in pieces.
TEST(GenerateTiny, WritesWholeCharacters) {
  const testing::TempDir folder;
  const std::string model = testing::write_runnable_model(folder / "m").string();
  const Model loaded = load_model(model);
  const Transformer transformer(loaded);
  const Tokenizer tokenizer(loaded.folder / "tokenizer.json");
  const std::vector<int32_t> ids = tokenizer.encode(kPrompt);
  int beyond_ascii = 0;
  for (const uint64_t seed : {1, 2, 3}) {
    FloatLinears linears;
    auto tokens = generate(transformer, linears, {ids.data(), 1, static_cast<int64_t>(ids.size())}, 12,
                           {2.0, seed, 0})[0];
    const auto end = std::ranges::find(tokens, 1);  // eos_token_id
    tokens.erase(end, tokens.end());
    beyond_ascii +=
        static_cast<int>(std::ranges::count_if(tokens, [](int32_t id) { return id >= 128 && id < 256; }));
    EXPECT_EQ(generate_with({"--temperature", "2", "--seed", std::to_string(seed)}, model).out,
              tokenizer.decode(tokens) + "\n");
  }
  EXPECT_GT(beyond_ascii, 5);
}

TEST(GenerateTiny, Refusals) {
  const testing::TempDir folder;
  const std::string model = testing::write_runnable_model(folder / "m").string();
  const auto refused = [&](const Words& more, const std::vector<std::string>& parts) {
    Words words{"generate", "--model", model};
    words.insert(words.end(), more.begin(), more.end());
    testing::expect_refused(words, parts);
  };
  const auto method_refused = [&](const std::string& method, const std::vector<std::string>& parts) {
    refused({"--prompt", "a", "--method", method}, parts);
  };
  refused({}, {"--prompt is missing", "usage: grinqh generate"});
  refused({"--prompt", ""}, {"--prompt", "no tokens"});
  refused({"--prompt", "\xff"}, {"--prompt", "no valid UTF-8"});
  refused({"--prompt", "a", "--tokens", "0"}, {"--tokens 0"});
  refused({"--prompt", "a", "--tokens", "64"}, {"--tokens 64", "1 to 63", "64"});
  refused({"--prompt", std::string(64, 'q')}, {"--tokens 64", "prompt of 64 tokens"});
  refused({"--prompt", "a", "--tokens", "many"}, {"many"});
  refused({"--prompt", "a", "--temperature", "-1"}, {"--temperature -1"});
  refused({"--prompt", "a", "--temperature", "nan"}, {"--temperature nan"});
  refused({"--prompt", "a", "--seed", "-1"}, {"--seed -1"});
  refused({"--prompt", "a", "--threads", "-1"}, {"--threads -1", "0"});
  refused({"--prompt", "a", "--device", "cuda:99"}, {"--device", "'cuda:99'"});
  refused({"--prompt", "a", "--calibration", "x"}, {"--calibration", "--method"});
  method_refused("quantizer = \"rtn\", bits = [4, 3]", {"2 methods, expected one", "axis"});
  method_refused("quantizer = \"rtn\", bits = 9", {"bits = 9", "2 to 8"});
  method_refused("quantizer = \"rtm\"", {"'rtm'", "did you mean 'rtn'?"});
  method_refused("bits = 4", {"'quantizer' is missing"});
  method_refused("quantizer = rtn", {"not valid TOML"});
  method_refused("quantizer = \"rtn\", bit = 4", {"'bit'", "did you mean 'bits'?"});
  method_refused("quantizer = \"grinqh\", levels = [0, 2], policy = { name = \"grinqh\", bits = 3 }",
                 {"bits = 3", "0 to 2"});
  method_refused("/nowhere/method.toml", {"/nowhere/method.toml"});
  testing::write_file(folder / "two.toml",
                      "[[methods]]\nquantizer = \"rtn\"\n[[methods]]\nquantizer = \"rtn\"\n");
  method_refused((folder / "two.toml").string(), {"two.toml", "2 methods"});
  testing::write_file(folder / "short.txt", "q");
  refused({"--prompt", "a", "--tokens", "4", "--method", "quantizer = \"grinqh\", policy = \"grinqh\"",
           "--calibration", (folder / "short.txt").string()},
          {"short.txt", "1 tokens", "needs 64"});
}

}  // namespace
}  // namespace grinqh
