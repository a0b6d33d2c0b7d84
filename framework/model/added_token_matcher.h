// Added tokens are found in the text before it is split into words.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace grinqh {

struct AddedToken {
  int32_t id;
  std::string content;
  std::string bytes;  // what it decodes to
  bool single_word, left_strip, right_strip, normalized, special;
};

// Cuts text at the occurrences of a set of tokens: the leftmost first, of those that start at one place the
// longest.
class AddedTokenMatcher {
 public:
  // Called in order with the text between tokens (token null, text not empty) and with the tokens.
  using Visit = std::function<void(const AddedToken* token, std::string_view text)>;

  // `token` must stay where it is. False if another token has the same text.
  bool add(std::string text, const AddedToken& token);
  void split(std::string_view text, const Visit& visit) const;

 private:
  // The token at the start of `text` and its length there; null if there is none.
  std::pair<const AddedToken*, size_t> match(std::string_view text) const;

  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  std::unordered_map<std::string, const AddedToken*, Hash, std::equal_to<>> tokens_;
  std::array<std::vector<size_t>, 256> lengths_;  // of the tokens by their first byte, longest first
};

}  // namespace grinqh
