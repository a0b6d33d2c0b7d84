#include "model/tokenizer.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "support.h"
#include "tiny_tokenizer.h"

namespace grinqh {
namespace {

using nlohmann::json;
using testing::add_word;
using testing::added_token;
using testing::split_by;
using testing::tiny_tokenizer;
using Ids = std::vector<int32_t>;

Tokenizer load(const json& tokenizer) {
  const testing::TempDir folder;
  return Tokenizer(testing::write_text(folder / "tokenizer.json", tokenizer.dump()));
}

Ids bytes_of(const std::string& text) {
  Ids ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

TEST(Tokenizer, MergesByRank) {
  const Tokenizer tokenizer = load(tiny_tokenizer());
  // h e l l o -> he l l o -> he ll o -> hell o; "lo" has a higher rank than "ll" and is too late.
  EXPECT_EQ(tokenizer.encode("hello"), (Ids{258, 'o'}));
  EXPECT_EQ(tokenizer.encode("llo"), (Ids{257, 'o'}));
  EXPECT_EQ(tokenizer.encode("lo"), (Ids{260}));
  EXPECT_EQ(tokenizer.encode("hello we"), (Ids{258, 'o', 259, 'e'}));
  EXPECT_EQ(tokenizer.encode(""), Ids{});
  EXPECT_EQ(tokenizer.vocab(), 264);
}

TEST(Tokenizer, MergesTheLeftmostOfEqualRanks) {
  const Tokenizer tokenizer = load(tiny_tokenizer());
  EXPECT_EQ(tokenizer.encode("aaa"), (Ids{261, 'a'}));
  EXPECT_EQ(tokenizer.encode("aaaaa"), (Ids{262, 'a'}));
  EXPECT_EQ(tokenizer.encode("aaaaaaa"), (Ids{262, 261, 'a'}));
}

TEST(Tokenizer, ReadsMergesInBothStyles) {
  json file = tiny_tokenizer();
  json merges = {"#version: 0.2"};
  for (const json& pair : file["model"]["merges"])
    merges.push_back(pair[0].get<std::string>() + " " + pair[1].get<std::string>());
  file["model"]["merges"] = merges;
  EXPECT_EQ(load(file).encode("hello wlo"), (Ids{258, 'o', 259, 260}));
}

TEST(Tokenizer, ReadsMergesBeforeVocabulary) {
  const json file = tiny_tokenizer();
  json rest = file;
  rest.erase("model");
  std::string text = rest.dump();
  text.back() = ',';
  text += R"("model": {"merges": )" + file["model"]["merges"].dump() + R"(, "vocab": )" +
          file["model"]["vocab"].dump() + "}}";
  const testing::TempDir folder;
  EXPECT_EQ(Tokenizer(testing::write_text(folder / "t.json", text)).encode("hell"), (Ids{258}));
}

TEST(Tokenizer, IgnoresMergesForWholeWords) {
  json file = tiny_tokenizer();
  EXPECT_EQ(load(file).encode("world"), bytes_of("world"));
  file["model"]["ignore_merges"] = true;
  EXPECT_EQ(load(file).encode("world"), (Ids{263}));
  EXPECT_EQ(load(file).encode("worlds"), bytes_of("worlds"));
}

TEST(Tokenizer, EncodesLongRunsInTime) {
  const Tokenizer tokenizer = load(tiny_tokenizer());
  EXPECT_EQ(tokenizer.encode(std::string(1 << 20, 'a')), Ids(1 << 18, 262));
  EXPECT_EQ(tokenizer.encode(std::string(1 << 20, ' ')), Ids(1 << 20, ' '));
}

TEST(Tokenizer, NormalizesToNfc) {
  json file = tiny_tokenizer();
  EXPECT_EQ(load(file).encode("e\u0301"), bytes_of("e\u0301"));
  for (const char* normalizer :
       {R"({"type": "NFC"})", R"({"type": "Sequence", "normalizers": [{"type": "NFC"}]})"}) {
    file["normalizer"] = json::parse(normalizer);
    const Tokenizer tokenizer = load(file);
    EXPECT_EQ(tokenizer.encode("e\u0301"), bytes_of("\u00E9"));
    EXPECT_EQ(tokenizer.encode("\u00E9"), bytes_of("\u00E9"));
    EXPECT_EQ(tokenizer.encode("\u1112\u1161\u11AB"), bytes_of("\uD55C"));    // Hangul syllable
    EXPECT_EQ(tokenizer.encode("q\u0307\u0323"), bytes_of("q\u0323\u0307"));  // canonical order
    // Dives Akuru of Unicode 13: a composition that the library's tables do not have.
    EXPECT_EQ(tokenizer.encode("\U00011935\U00011930"), bytes_of("\U00011935\U00011930"));
  }
}

TEST(Tokenizer, SplitsAsGpt2) {
  json file = tiny_tokenizer();
  file["model"]["ignore_merges"] = true;
  const int ll = add_word(file, "'ll"), go = add_word(file, " go"), digits = add_word(file, " 123"),
            blanks = add_word(file, "  "), marks = add_word(file, "?!");
  EXPECT_EQ(load(file).encode("I'll   go 123?!"), (Ids{'I', ll, blanks, go, digits, marks}));
  // Only lower-case contractions are words of their own in this pattern.
  EXPECT_EQ(load(file).encode("I'LL"), bytes_of("I'LL"));
}

TEST(Tokenizer, AddsPrefixSpace) {
  json file = tiny_tokenizer();
  file["pre_tokenizer"]["add_prefix_space"] = true;
  const Tokenizer tokenizer = load(file);
  EXPECT_EQ(tokenizer.encode("we"), (Ids{259, 'e'}));
  EXPECT_EQ(tokenizer.encode(" we"), (Ids{259, 'e'}));
  EXPECT_EQ(tokenizer.encode(""), Ids{});
}

// The words that a pattern makes, seen through tokens of whole words.
TEST(Tokenizer, SplitsByUnicodeAsOniguruma) {
  json file = tiny_tokenizer();
  file["model"]["ignore_merges"] = true;
  file["pre_tokenizer"] = split_by(R"((?i:'s|'t)|\p{L}+|[^\s\p{L}]+|\s+)");
  const int long_s = add_word(file, "'\u017F");           // folds to 's
  const int next_line = add_word(file, " \u0085\u3000");  // white space
  const int vowel_separator = add_word(file, "\u180E-");  // no white space since Unicode 6.3
  const int todhri = add_word(file, "a\U000105C0");       // a letter of Unicode 16
  const Tokenizer tokenizer = load(file);
  EXPECT_EQ(tokenizer.encode("a'\u017Fb"), (Ids{'a', long_s, 'b'}));
  EXPECT_EQ(tokenizer.encode("a \u0085\u3000b"), (Ids{'a', next_line, 'b'}));
  EXPECT_EQ(tokenizer.encode("a\u180E-b"), (Ids{'a', vowel_separator, 'b'}));
  EXPECT_EQ(tokenizer.encode("1a\U000105C0"), (Ids{'1', todhri}));
}

TEST(Tokenizer, KeepsWhatThePatternDoesNotMatch) {
  json file = tiny_tokenizer();
  file["model"]["ignore_merges"] = true;
  const int ab = add_word(file, "ab"), cd = add_word(file, "cd");
  file["pre_tokenizer"] = split_by(R"(\p{N}{1,2})");
  EXPECT_EQ(load(file).encode("ab123cd"), (Ids{ab, '1', '2', '3', cd}));
  file["pre_tokenizer"] = split_by("x*");  // an empty match is a border
  EXPECT_EQ(load(file).encode("ab"), bytes_of("ab"));
}

TEST(Tokenizer, FindsAddedTokens) {
  json file = tiny_tokenizer();
  file["added_tokens"] = {added_token(264, "<s>"), added_token(265, "<s><s>"), added_token(266, "a b")};
  const Tokenizer tokenizer = load(file);
  EXPECT_EQ(tokenizer.encode("he<s><s><s>lo"), (Ids{256, 265, 264, 260}));  // the longest first
  EXPECT_EQ(tokenizer.encode("a a b<s"), (Ids{'a', ' ', 266, '<', 's'}));
  EXPECT_EQ(tokenizer.vocab(), 267);
}

TEST(Tokenizer, AppliesFlagsOfAddedTokens) {
  json file = tiny_tokenizer();
  json left = added_token(264, "<l>"), right = added_token(265, "<r>"), word = added_token(266, "xx"),
       normalized = added_token(267, "e\u0301x");
  left["lstrip"] = right["rstrip"] = word["single_word"] = normalized["normalized"] = true;
  file["added_tokens"] = {left, right, word, normalized};
  file["normalizer"] = {{"type", "NFC"}};
  const Tokenizer tokenizer = load(file);
  EXPECT_EQ(tokenizer.encode("h \n<l> h"), (Ids{'h', 264, ' ', 'h'}));
  EXPECT_EQ(tokenizer.encode("h <r> \u3000h"), (Ids{'h', ' ', 265, 'h'}));
  EXPECT_EQ(tokenizer.encode("xx xxy -xx"), (Ids{266, ' ', 'x', 'x', 'y', ' ', '-', 266}));
  EXPECT_EQ(tokenizer.encode("\u00E9x"), (Ids{267}));
}

TEST(Tokenizer, AddsWhatTheTemplateSays) {
  json file = tiny_tokenizer();
  file["added_tokens"] = {added_token(264, "<s>"), added_token(265, "</s>")};
  file["post_processor"] = json::parse(R"({"type": "Sequence", "processors": [
    {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true},
    {"type": "TemplateProcessing",
     "single": [{"SpecialToken": {"id": "B", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "E", "type_id": 0}}],
     "pair": [],
     "special_tokens": {"B": {"id": "B", "ids": [264], "tokens": ["<s>"]},
                        "E": {"id": "E", "ids": [265, 10], "tokens": ["</s>", "x"]}}}]})");
  const Tokenizer tokenizer = load(file);
  EXPECT_EQ(tokenizer.encode("he", true), (Ids{264, 256, 265, 10}));
  EXPECT_EQ(tokenizer.encode("", true), (Ids{264, 265, 10}));
  EXPECT_EQ(tokenizer.encode("he"), (Ids{256}));
}

TEST(Tokenizer, DecodesAndSkipsSpecialTokens) {
  json file = tiny_tokenizer();
  json special = added_token(264, "<s>");
  special["special"] = true;
  file["added_tokens"] = {special, added_token(265, "\u65E5 x")};
  const Tokenizer tokenizer = load(file);
  const Ids ids = {264, 258, 'o', 259, 265};
  EXPECT_EQ(tokenizer.decode(ids), "<s>hello w\u65E5 x");
  EXPECT_EQ(tokenizer.decode(ids, true), "hello w\u65E5 x");
  EXPECT_EQ(tokenizer.decode({-1, 'a', 266, INT32_MAX}), "a");  // ids without a token
}

TEST(Tokenizer, ReplacesInvalidUtf8WhenDecoding) {
  const Tokenizer tokenizer = load(tiny_tokenizer());
  const auto decoded = [&](const std::string& bytes) { return tokenizer.decode(bytes_of(bytes)); };
  const std::string r = "\uFFFD";
  // Unicode 15, tables 3-8 to 3-11.
  EXPECT_EQ(decoded("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(decoded("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(decoded("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"), r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(decoded("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), r + r + r + r + "A");
  EXPECT_EQ(decoded("\xE2\x82"), r);
}

TEST(Tokenizer, RoundTripsAnyText) {
  json file = tiny_tokenizer();
  file["added_tokens"] = {added_token(264, "<s>")};
  const Tokenizer tokenizer = load(file);
  std::string all("\0<s>", 4);
  for (char32_t c = 1; c < 0x110000; c += c < 0x3000 ? 1 : 97) {
    if (c >= 0xD800 && c < 0xE000) continue;
    const auto bits = [&](int shift) { return static_cast<char>(0x80 | (c >> shift & 0x3F)); };
    if (c < 0x80)
      all += static_cast<char>(c);
    else if (c < 0x800)
      all += {static_cast<char>(0xC0 | c >> 6), bits(0)};
    else if (c < 0x10000)
      all += {static_cast<char>(0xE0 | c >> 12), bits(6), bits(0)};
    else
      all += {static_cast<char>(0xF0 | c >> 18), bits(12), bits(6), bits(0)};
  }
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(all)), all);
}

TEST(Tokenizer, RefusesInvalidUtf8) {
  const Tokenizer tokenizer = load(tiny_tokenizer());
  for (const auto& [text, message] :
       std::vector<std::pair<std::string, std::string>>{{"ab\xFFz", "byte 0xFF at offset 2"},
                                                        {"\u00E9\xE2\x82", "byte 0xE2 at offset 2"},
                                                        {"\xED\xA0\x80", "byte 0xED at offset 0"}}) {
    try {
      tokenizer.encode(text);
      FAIL() << "accepted";
    } catch (const BadInput& error) {
      EXPECT_THAT(error.what(), ::testing::HasSubstr(message));
    }
  }
}

TEST(Tokenizer, RefusesBytesWithoutToken) {
  json file = tiny_tokenizer();
  file["model"]["vocab"].erase("z");
  const Tokenizer tokenizer = load(file);
  EXPECT_EQ(tokenizer.encode("he"), (Ids{256}));
  EXPECT_THROW(tokenizer.encode("z"), BadInput);
}

}  // namespace
}  // namespace grinqh
