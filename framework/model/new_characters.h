// Characters that Unicode assigned after version 14.
#pragma once

#include <span>
#include <string_view>

namespace grinqh {

struct CharacterRange {
  char32_t first, last;       // both included
  std::string_view category;  // general category: "Lu", "Nd", ...
};

// The letters, marks, numbers, punctuation and symbols of Unicode 15.0 to 16.0 (DerivedGeneralCategory.txt).
// The tokenizers library knows version 16; PCRE2 10.40 to 10.42 know 14 and ICU 72 knows 15.
std::span<const CharacterRange> characters_since_unicode_15();

}  // namespace grinqh
