// What a tokenizer.json must not hold, and the messages about it.
#include <gmock/gmock.h>

#include "core/error.h"
#include "model/tokenizer.h"
#include "support.h"
#include "tiny_tokenizer.h"

namespace grinqh {
namespace {

using nlohmann::json;
using testing::added_token;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::split_by;
using testing::tiny_tokenizer;

// The message that `text` is refused with as "t.json"; "" if it is accepted.
std::string refusal_of_text(const std::string& text) {
  const testing::TempDir folder;
  try {
    Tokenizer tokenizer(testing::write_text(folder / "t.json", text));
  } catch (const BadInput& error) {
    return error.what();
  }
  return "";
}

std::string refusal(const json& tokenizer) { return refusal_of_text(tokenizer.dump()); }

struct Case {
  std::string pointer;  // of what is replaced in the tiny tokenizer
  std::string value;    // JSON, or "" to remove it
  std::string message;  // a part of the expected one
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.pointer << " = " << c.value; }

class Refusals : public ::testing::TestWithParam<Case> {};

TEST_P(Refusals, NameThePart) {
  const Case& c = GetParam();
  json file = tiny_tokenizer();
  file["added_tokens"] = {added_token(264, "<s>")};
  const json::json_pointer pointer(c.pointer);
  if (c.value.empty())
    file[pointer.parent_pointer()].erase(pointer.back());
  else
    file[pointer] = json::parse(c.value);
  const std::string message = refusal(file);
  EXPECT_THAT(message, AllOf(HasSubstr("t.json: "), HasSubstr(c.message), Not(HasSubstr("\n"))));
}

INSTANTIATE_TEST_SUITE_P(
    Options, Refusals,
    ::testing::Values(
        Case{"/model/dropout", "0.1", "model.dropout is 0.1; supported: null"},
        Case{"/model/unk_token", R"("<unk>")", R"(model.unk_token is "<unk>"; supported: null)"},
        Case{"/model/byte_fallback", "true", "model.byte_fallback is true; supported: null or false"},
        Case{"/model/fuse_unk", "true", "model.fuse_unk is true"},
        Case{"/model/continuing_subword_prefix", R"("##")", R"(model.continuing_subword_prefix is "##")"},
        Case{"/model/end_of_word_suffix", R"("</w>")", R"(model.end_of_word_suffix is "</w>")"},
        Case{"/model/ignore_merges", "1", "model.ignore_merges is 1; supported: true or false"},
        Case{"/model/surprise", "1", "model.surprise is not supported"},
        Case{"/model/type", R"("WordPiece")", R"(model.type is "WordPiece"; supported: "BPE")"},
        Case{"/model/type", R"("Unigram")", R"(model.type is "Unigram")"},
        Case{"/model", "", "model is missing"}, Case{"/truncation", R"({"max_length": 8})", "truncation is"},
        Case{"/padding", "{}", "padding is {}"}, Case{"/version", R"("2.0")", "version is \"2.0\""},
        Case{"/surprise", "1", "surprise is not supported"},
        Case{"/normalizer", R"({"type": "NFKC"})", R"(normalizer.type is "NFKC"; supported: "NFC")"},
        Case{"/normalizer", R"({"type": "Sequence", "normalizers": [{"type": "Lowercase"}]})",
             R"(normalizer.normalizers[0].type is "Lowercase")"},
        Case{"/pre_tokenizer", "null", "pre_tokenizer is null"},
        Case{"/pre_tokenizer", R"({"type": "Metaspace"})", R"(pre_tokenizer.type is "Metaspace")"},
        Case{"/pre_tokenizer/add_prefix_space", "", "pre_tokenizer.add_prefix_space is missing"},
        Case{"/decoder", R"({"type": "Metaspace"})", R"(decoder.type is "Metaspace")"},
        Case{"/decoder", "null", "decoder is null"},
        Case{"/post_processor", R"({"type": "BertProcessing"})",
             R"(post_processor.type is "BertProcessing")"},
        Case{"/post_processor", R"({"type": "TemplateProcessing", "single": [], "special_tokens": {}})",
             "post_processor.single is []"},
        Case{"/post_processor",
             R"({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "B", "type_id": 0}}]})",
             R"(post_processor.single[0].Sequence.id is "B")"},
        Case{"/post_processor",
             R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "X", "type_id": 0}}],
                 "special_tokens": {"X": {"id": "X", "ids": [999], "tokens": ["x"]}}})",
             "post_processor.special_tokens.X.ids[0] is 999"},
        Case{"/post_processor",
             R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "Y", "type_id": 0}}],
                 "special_tokens": {}})",
             "post_processor.special_tokens.Y is missing"}));

INSTANTIATE_TEST_SUITE_P(
    Tokens, Refusals,
    ::testing::Values(
        Case{"/model/vocab", "", "model.vocab is missing"},
        Case{"/model/vocab", "{}", "model.vocab is missing or empty"},
        Case{"/model/vocab", "[1]", "model.vocab is [1]"}, Case{"/model/vocab/x", "-1", "token \"x\""},
        Case{"/model/vocab/x", "1.5", "token \"x\""}, Case{"/model/vocab/x", "null", "token \"x\""},
        Case{"/model/vocab/x", "[1]", "token \"x\""},
        Case{"/model/vocab/x", "4294967296", "id 4294967296; allowed: 0 to 4194303"},
        Case{"/model/vocab/x", "97", "id 97 occurs twice"},
        Case{"/model/merges", "", "model.merges is missing"},
        Case{"/model/merges", "{}", "model.merges is {}"},
        Case{"/model/merges/1", R"("ab")", "model.merges[1] is malformed"},
        Case{"/model/merges/1", R"("a b c")", "model.merges[1] is malformed"},
        Case{"/model/merges/1", R"(["a"])", "model.merges[1] is malformed"},
        Case{"/model/merges/1", R"([["a"], "b"])", "model.merges[1] is malformed"},
        Case{"/model/merges/1", "7", "model.merges[1] is malformed"},
        Case{"/model/merges/1", R"(["q", "zz"])", R"(model.merges[1] ("q" and "zz") needs "zz")"},
        Case{"/model/merges/1", R"(["q", "r"])", R"(needs "qr", which is not in model.vocab)"},
        Case{"/added_tokens", "{}", "added_tokens is {}"},
        Case{"/added_tokens/0/id", "97", "added_tokens[0].id is 97; supported: 264"},
        Case{"/added_tokens/0/id", "-5", "added_tokens[0].id is -5"},
        Case{"/added_tokens/0/id", "18446744073709551615", "added_tokens[0].id is 18446744073709551615"},
        Case{"/added_tokens/0/content", R"("he")", "added_tokens[0].id is 264; supported: 256"},
        Case{"/added_tokens/0/content", R"("")", "added_tokens[0].content is \"\""},
        Case{"/added_tokens/0/lstrip", "", "added_tokens[0].lstrip is missing"}));

TEST(TokenizerRefusals, RepeatedAddedTokens) {
  json file = tiny_tokenizer();
  EXPECT_EQ(refusal(file), "");
  file["added_tokens"] = {added_token(264, "<s>"), added_token(265, "<s>")};
  EXPECT_THAT(refusal(file), HasSubstr("added_tokens[1].content is \"<s>\""));
  file["added_tokens"] = {added_token(264, "<s>"), added_token(264, "<t>")};
  EXPECT_THAT(refusal(file), HasSubstr("added_tokens[1].id is 264; supported: 265"));
}

TEST(TokenizerRefusals, SplitOptions) {
  json file = tiny_tokenizer();
  file["pre_tokenizer"] = split_by("a");
  EXPECT_EQ(refusal(file), "");
  json& split = file["pre_tokenizer"]["pretokenizers"][0];
  split["behavior"] = "Removed";
  EXPECT_THAT(refusal(file), HasSubstr("pre_tokenizer.pretokenizers[0].behavior is \"Removed\""));
  split["behavior"] = "Isolated";
  split["invert"] = true;
  EXPECT_THAT(refusal(file), HasSubstr("pre_tokenizer.pretokenizers[0].invert is true"));
  split["invert"] = false;
  split["pattern"] = {{"String", " "}};
  EXPECT_THAT(refusal(file), HasSubstr("pre_tokenizer.pretokenizers[0].pattern.String is not supported"));
  file["pre_tokenizer"]["pretokenizers"].erase(1);  // what is left is no ByteLevel
  EXPECT_THAT(refusal(file), HasSubstr("pre_tokenizer.pretokenizers[0].type is \"Split\""));
}

TEST(TokenizerRefusals, PatternsThatOtherEnginesReadOtherwise) {
  for (const char* pattern :
       {"^a",           "a$",          ".",       "\\w",     "\\d",         "\\h",
        "\\R",          "\\1",         "a{,3}",   "a{2}+",   "a{2}?",       "a{",
        "(?i)a",        "(?<=a)b",     "(?<n>a)", "(?i:ss)", "(?i:\u00E4)", "(?i:[a-z])",
        "(?i:\\p{Lu})", "[[:alpha:]]", "[a&&b]",  "[]a]",    "[\\S]",       "[\\P{L}]",
        "\\p{Han}",     "\\p{Mn}",     "\\pL",    "[a",      "(a",          "a)",
        "a\\",          "[z-a]",       "*"}) {
    json file = tiny_tokenizer();
    file["pre_tokenizer"] = split_by(pattern);
    EXPECT_THAT(refusal(file), HasSubstr("pre_tokenizer.pretokenizers[0].pattern.Regex")) << pattern;
  }
}

TEST(TokenizerRefusals, MalformedFiles) {
  EXPECT_THAT(refusal_of_text(""), HasSubstr("no valid JSON"));
  EXPECT_THAT(refusal_of_text("{\"a\": }"), HasSubstr("no valid JSON: parse error at line 1, column 7"));
  EXPECT_THAT(refusal_of_text("{\"version\": \"\xFF\"}"), HasSubstr("no valid JSON"));
  EXPECT_THAT(refusal_of_text("[]"), HasSubstr("the file's content is []; supported: an object"));
  EXPECT_THAT(refusal_of_text("{\"version\": null, \"version\": null}"),
              HasSubstr("\"version\" occurs twice"));
  EXPECT_THAT(refusal_of_text("{\"model\": {\"vocab\": {\"a\": 0, \"a\": 1}, \"merges\": []}, \"decoder\":"
                              "{\"type\": \"ByteLevel\"}}"),
              HasSubstr("token \"a\" occurs twice"));
  EXPECT_THAT(refusal_of_text(std::string(100000, '[')), HasSubstr("nested deeper than 64 levels"));
  EXPECT_THROW(Tokenizer("no/such/tokenizer.json"), BadInput);
}

// Whatever a damaged file says, it is either refused or gives a tokenizer that can be used.
TEST(TokenizerRefusals, DamagedFilesNeverCrash) {
  json file = tiny_tokenizer();
  file["added_tokens"] = {added_token(264, "<s>")};
  file["pre_tokenizer"] =
      split_by(R"((?i:'s|'t)| ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+)");
  const std::string intact = file.dump();
  std::mt19937 random(1);
  const std::string bytes = "{}[]\",:0129.-eEntf\\u \xC3\xFF";
  int refused = 0;
  for (int round = 0; round < 1000; ++round) {
    std::string text = intact;
    for (int change = 0; change < 3; ++change) {
      const size_t at = random() % text.size();
      if (random() % 2 == 0)
        text[at] = bytes[random() % bytes.size()];
      else
        text.erase(at, random() % 40);
    }
    const testing::TempDir folder;
    try {
      const Tokenizer tokenizer(testing::write_text(folder / "t.json", text));
      tokenizer.decode(tokenizer.encode("hello <s> 12 't world", true));
    } catch (const BadInput&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 500);
}

}  // namespace
}  // namespace grinqh
