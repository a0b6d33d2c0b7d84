#include "model/vocabulary.h"

#include <algorithm>

#include "core/error.h"
#include "model/byte_level.h"
#include "model/json_part.h"

namespace grinqh {

namespace {

std::optional<int32_t> find(const std::unordered_map<std::string_view, int32_t>& index,
                            std::string_view key) {
  const auto it = index.find(key);
  return it == index.end() ? std::nullopt : std::optional(it->second);
}

}  // namespace

Vocabulary::Vocabulary(const std::vector<std::pair<std::string, int32_t>>& tokens, std::string_view file)
    : count_(static_cast<int64_t>(tokens.size())) {
  if (tokens.empty())
    bad_input("{}: model.vocab is missing or empty; expected an object of tokens and ids", file);
  int32_t largest = 0;
  for (const auto& [token, id] : tokens) largest = std::max(largest, id);
  bytes_.resize(largest + size_t{1});
  present_.resize(bytes_.size());
  by_bytes_.reserve(tokens.size());
  for (const auto& [token, id] : tokens) {
    if (present_[id])
      bad_input("{}: model.vocab: id {} occurs twice, the second time for {}", file, id, json_text(token));
    present_[id] = true;
    std::optional<std::string> bytes = byte_level_bytes(token);
    Index& index = bytes ? by_bytes_ : by_text_;
    bytes_[id] = bytes ? std::move(*bytes) : token;
    if (!index.emplace(bytes_[id], id).second)
      bad_input("{}: model.vocab: token {} occurs twice", file, json_text(token));
  }
}

std::optional<int32_t> Vocabulary::find_token(std::string_view token) const {
  const std::optional<std::string> bytes = byte_level_bytes(token);
  return bytes ? find(by_bytes_, *bytes) : find(by_text_, token);
}

std::optional<int32_t> Vocabulary::find_bytes(std::string_view bytes) const { return find(by_bytes_, bytes); }

std::string_view Vocabulary::bytes(int32_t id) const {
  return contains(id) ? std::string_view(bytes_[id]) : std::string_view();
}

}  // namespace grinqh
