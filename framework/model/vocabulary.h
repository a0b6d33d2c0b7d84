// The model's own tokens (model.vocab), kept as the bytes that they stand for: text can then be looked up
// without being rewritten in the byte-level alphabet.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace grinqh {

class Vocabulary {
 public:
  // `tokens` as written in `file`; BadInput for none, a token or an id that occurs twice.
  Vocabulary(const std::vector<std::pair<std::string, int32_t>>& tokens, std::string_view file);
  Vocabulary(const Vocabulary&) = delete;  // by_bytes_ refers to bytes_
  Vocabulary& operator=(const Vocabulary&) = delete;

  // The id of a token as written in the file.
  std::optional<int32_t> find_token(std::string_view token) const;
  // The id of the byte-level token that stands for `bytes`.
  std::optional<int32_t> find_bytes(std::string_view bytes) const;
  // Empty for an id without a token.
  std::string_view bytes(int32_t id) const;

  int64_t count() const { return count_; }
  int64_t id_end() const { return static_cast<int64_t>(bytes_.size()); }  // the largest id + 1
  bool contains(int32_t id) const { return id >= 0 && id < id_end() && present_[id]; }

 private:
  using Index = std::unordered_map<std::string_view, int32_t>;

  std::vector<std::string> bytes_;  // by id
  std::vector<bool> present_;
  Index by_bytes_;  // byte-level tokens
  Index by_text_;   // tokens that are not written in the byte-level alphabet, which no text is split into
  int64_t count_ = 0;
};

}  // namespace grinqh
