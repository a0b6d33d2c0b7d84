#include "model/utf8.h"

#include <unicode/utf8.h>

namespace grinqh {

namespace {

// Moves `i` past the character or ill-formed subpart at `i`; whether it was a character. U8_NEXT consumes
// exactly the maximal subpart.
bool next(std::string_view text, size_t& i) {
  UChar32 character;
  U8_NEXT(text.data(), i, text.size(), character);
  return character >= 0;
}

}  // namespace

size_t find_invalid_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    if (!next(text, i)) return start;
  }
  return std::string_view::npos;
}

std::string replace_invalid_utf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  for (size_t i = 0; i < bytes.size();) {
    const size_t start = i;
    text += next(bytes, i) ? bytes.substr(start, i - start) : std::string_view("\xEF\xBF\xBD");
  }
  return text;
}

}  // namespace grinqh
