// Byte-level BPE tokenizers from tokenizer.json, equal to the `tokenizers` library on text and ids.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace grinqh {

class Tokenizer {
 public:
  // BadInput for a missing or malformed file and for any part that is not implemented (it is named).
  explicit Tokenizer(const std::filesystem::path& tokenizer_json);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // `special` adds what the post-processor adds (a BOS token, mostly). Text of added tokens is recognized
  // either way. Invalid UTF-8 is BadInput.
  std::vector<int32_t> encode(std::string_view text, bool special = false) const;
  // Skips special tokens if asked to. Bytes that are no UTF-8 become U+FFFD and ids without a token (a model
  // may have more rows than its tokenizer) become nothing, as in the library.
  std::string decode(const std::vector<int32_t>& ids, bool skip_special = false) const;
  // One more than the largest id.
  int64_t vocab() const;
  // Whether the post-processor puts a token before every text.
  bool adds_bos() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A text's tokens, without special ones, for a model of `vocab` tokens. BadInput names the `source` of the
// text if it is no UTF-8, or if an id is beyond the vocabulary: the tokenizer is then another model's.
std::vector<int32_t> encode_for_model(const Tokenizer& tokenizer, std::string_view text, int64_t vocab,
                                      std::string_view source);

}  // namespace grinqh
