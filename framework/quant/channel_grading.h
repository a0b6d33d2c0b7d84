// What a policy decides for the channels of one layer, as data: every device applies it in its own way to
// the same levels.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "core/matrix.h"
#include "quant/precision.h"

namespace grinqh {

// Channel i of a token x is read at the highest of `levels` whose steps it passes: levels[0], and on from
// levels[j] to levels[j + 1] for every j with |x[i]| > thresholds(j, i).
struct ChannelGrading {
  std::vector<Level> levels;       // ascending
  MatrixBuffer<float> thresholds;  // [levels - 1, in], or [levels - 1, 1]: the same for all channels
  // Tokens meet this mean level each for itself, from below: |x| counts times the factor 2^f, found by
  // bisection, at which it does. None: thresholds hold as they are.
  std::optional<double> budget;
  // Tokens at positions below are read at `full`.
  int64_t full_tokens = 0;
  Level full = kFullLevel;
};

// levels: [tokens, in], overwritten. x: [tokens, in].
void grade_channels(const ChannelGrading& grading, std::span<const Step> steps, Matrix<const float> x,
                    Matrix<Level> levels);

}  // namespace grinqh
