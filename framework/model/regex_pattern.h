// The patterns of tokenizer.json are written for Oniguruma; where PCRE2 reads the same text otherwise, they
// are rewritten, and what is not known to mean the same is refused.
#pragma once

#include <string>

#include "model/json_part.h"

namespace grinqh {

// The pattern at `part` for PCRE2 with UTF and UCP. It may hold literals, alternatives, groups, lookahead,
// (?i:...) of literals, classes, \p{..} of general categories, \s, \S, and quantifiers.
std::string pcre2_pattern(const JsonPart& part);

}  // namespace grinqh
