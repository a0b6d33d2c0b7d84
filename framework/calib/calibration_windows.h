// Windows of calibration tokens: spread over a text, or written by the model itself.
#pragma once

#include <cstdint>

#include "core/matrix.h"
#include "runtime/transformer.h"

namespace grinqh {

// Samples `windows` sequences of `context` tokens at temperature 1, each after the BOS token (or the
// end-of-text token where there is none), which is not part of the window. The same seed gives the same
// tokens.
MatrixBuffer<int32_t> sample_windows(const Transformer& transformer, int64_t windows, int64_t context,
                                     uint64_t seed);

// Windows spread evenly over a text: window i starts at floor(i (n - context) / (windows - 1)) of its n
// tokens. The text must have at least `context` tokens.
MatrixBuffer<int32_t> spread_windows(const std::vector<int32_t>& tokens, int64_t windows, int64_t context);

}  // namespace grinqh
