#include "model/added_token_matcher.h"

#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <algorithm>

#include "model/new_characters.h"

namespace grinqh {

namespace {

// \w of Rust's regex crate (UTS #18, annex C).
bool is_word(UChar32 c) {
  for (const CharacterRange& range : characters_since_unicode_15())
    if (char32_t(c) >= range.first && char32_t(c) <= range.last)
      return range.category[0] == 'L' || range.category[0] == 'M' || range.category == "Nd" ||
             range.category == "Pc";
  return u_isUAlphabetic(c) || (U_GET_GC_MASK(c) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0 ||
         u_hasBinaryProperty(c, UCHAR_JOIN_CONTROL);
}

bool ends_with_word(std::string_view text) {
  if (text.empty()) return false;
  auto i = static_cast<int32_t>(text.size());
  UChar32 c;
  U8_PREV(text.data(), 0, i, c);
  return is_word(c);
}

bool starts_with_word(std::string_view text) {
  if (text.empty()) return false;
  size_t i = 0;
  UChar32 c;
  U8_NEXT(text.data(), i, text.size(), c);
  return is_word(c);
}

// Where the white space at the end of `text` starts, and where that at its start ends.
size_t start_of_last_spaces(std::string_view text) {
  size_t start = text.size();
  for (auto i = static_cast<int32_t>(start); i > 0; start = i) {
    UChar32 c;
    U8_PREV(text.data(), 0, i, c);
    if (!u_isUWhiteSpace(c)) break;
  }
  return start;
}

size_t end_of_first_spaces(std::string_view text) {
  size_t end = 0;
  for (size_t i = 0; i < text.size(); end = i) {
    UChar32 c;
    U8_NEXT(text.data(), i, text.size(), c);
    if (!u_isUWhiteSpace(c)) break;
  }
  return end;
}

}  // namespace

bool AddedTokenMatcher::add(std::string text, const AddedToken& token) {
  std::vector<size_t>& lengths = lengths_[static_cast<unsigned char>(text[0])];
  const auto place = std::lower_bound(lengths.begin(), lengths.end(), text.size(), std::greater<>());
  if (place == lengths.end() || *place != text.size()) lengths.insert(place, text.size());
  return tokens_.emplace(std::move(text), &token).second;
}

std::pair<const AddedToken*, size_t> AddedTokenMatcher::match(std::string_view text) const {
  for (const size_t length : lengths_[static_cast<unsigned char>(text[0])]) {
    if (length > text.size()) continue;
    if (const auto it = tokens_.find(text.substr(0, length)); it != tokens_.end())
      return {it->second, length};
  }
  return {nullptr, 0};
}

void AddedTokenMatcher::split(std::string_view text, const Visit& visit) const {
  size_t done = 0;  // what has been visited; past `i` where a token took the white space after it
  for (size_t i = 0; i < text.size();) {
    const auto [token, length] = match(text.substr(i));
    if (token == nullptr) {
      ++i;
      continue;
    }
    size_t start = i, end = i + length;
    i = end;
    if (token->single_word && (ends_with_word(text.substr(0, start)) || starts_with_word(text.substr(end))))
      continue;
    if (token->left_strip) start = std::max(start_of_last_spaces(text.substr(0, start)), done);
    if (token->right_strip) end += end_of_first_spaces(text.substr(end));
    // Nothing is left of a token within the white space that the one before it has taken.
    if (start >= end) continue;
    if (done < start) visit(nullptr, text.substr(done, start - done));
    visit(token, text.substr(start, end - start));
    done = end;
  }
  if (done < text.size()) visit(nullptr, text.substr(done));
}

}  // namespace grinqh
