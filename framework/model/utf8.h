// UTF-8 at the borders of the tokenizer.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace grinqh {

// Offset of the first byte that does not start a well-formed character, or npos.
size_t find_invalid_utf8(std::string_view text);

// Every maximal subpart of an ill-formed sequence becomes one U+FFFD (Unicode 15, section 3.9), which is also
// the rule of Rust's String::from_utf8_lossy.
std::string replace_invalid_utf8(std::string_view bytes);

}  // namespace grinqh
