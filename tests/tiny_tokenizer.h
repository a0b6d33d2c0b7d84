// A tokenizer.json small enough to compute by hand: the 256 bytes, a few merges, and what a test adds to it.
#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace grinqh::testing {

// The character that stands for `byte` in the byte-level alphabet: itself where that is visible in Latin-1,
// else the next from U+0100 on (0x00 to 0x20, 0x7F to 0xA0, 0xAD).
inline std::string byte_character(int byte) {
  int code = byte;
  if (byte <= 0x20) code = 0x100 + byte;
  if (byte >= 0x7F && byte <= 0xA0) code = 0x121 + byte - 0x7F;
  if (byte == 0xAD) code = 0x143;
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
}

// `bytes` as a token is written in the file.
inline std::string byte_level(const std::string& bytes) {
  std::string text;
  for (const char c : bytes) text += byte_character(static_cast<unsigned char>(c));
  return text;
}

inline nlohmann::json added_token(int id, const std::string& content) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", false}};
}

// Bytes have their own value as id; then he 256, ll 257, hell 258, " w" 259, lo 260, aa 261, aaaa 262, and
// without merges to it "world" 263.
inline nlohmann::json tiny_tokenizer() {
  nlohmann::json vocab = nlohmann::json::object();
  for (int byte = 0; byte < 256; ++byte) vocab[byte_character(byte)] = byte;
  int next = 256;
  for (const char* token : {"he", "ll", "hell", " w", "lo", "aa", "aaaa", "world"})
    vocab[byte_level(token)] = next++;
  return nlohmann::json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    "post_processor": null,
    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
              "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
              "vocab": null,
              "merges": [["h", "e"], ["l", "l"], ["he", "ll"], ["\u0120", "w"], ["l", "o"], ["a", "a"],
                         ["aa", "aa"]]}})")
      .patch({{{"op", "replace"}, {"path", "/model/vocab"}, {"value", vocab}}});
}

// Adds `bytes` to the vocabulary as a token that ignore_merges finds whole; its id.
inline int add_word(nlohmann::json& tokenizer, const std::string& bytes) {
  nlohmann::json& vocab = tokenizer["model"]["vocab"];
  const int id = static_cast<int>(vocab.size());
  vocab[byte_level(bytes)] = id;
  return id;
}

inline nlohmann::json split_by(const std::string& pattern) {
  return {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}},
        {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}}}}};
}

inline std::filesystem::path write_text(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

}  // namespace grinqh::testing
