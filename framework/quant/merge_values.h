// Statistics of two sets of tokens made into those of both: calibration may be shared among machines, or go
// on with more text.
#pragma once

#include <cstdint>
#include <span>

#include "core/plain_vector.h"

namespace grinqh {

enum class Merge : uint8_t {
  mean,     // over tokens: weighted by their numbers
  sum,      // counts
  largest,  // elementwise
  sample    // rows of every n-th token, n the smallest power of two that leaves at most kSampledTokens
};

inline constexpr int64_t kSampledTokens = 512;

struct MergePart {
  std::span<const float> values;
  int64_t tokens;
};

// In the order of the tokens: first a's, then b's. Error if the parts do not fit each other.
PlainVector<float> merge_values(Merge how, const MergePart& a, const MergePart& b);

}  // namespace grinqh
