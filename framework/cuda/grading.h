// Levels of channels on the device: what policies decide (quant/grading.h), and what products need of it.
#pragma once

#include "cuda/types.h"

namespace grinqh::cuda {

// thresholds(j, i) decides the step from levels[j] to levels[j + 1] of channel i; one number for all channels
// if `shared`.
struct GradingRule {
  const float* thresholds = nullptr;  // [count - 1, in], or [count - 1] if shared; device
  bool shared = false;
  uint8_t levels[17] = {};  // ascending
  int32_t count = 0;
  // < 0: thresholds hold as they are. Otherwise every token scales |x| by the factor 2^f, f found in 20
  // bisections of [-12, 12] such that the sum of its levels stays at or below budget * in: the "exact"
  // selection, step by step as quant/channel_grading.cpp does it.
  double budget = -1;
};

// chosen(t, i) = the level of token t's channel i. fixed[t] != 255: that level for the whole token. x: [rows,
// in]; fixed: [rows] device, or null; chosen: [rows, in].
void grade(ConstView x, const GradingRule& rule, const uint8_t* fixed, uint8_t* chosen, Stream stream);

// The other way to say it: all channels of token t at fixed[t].
void fill_levels(const uint8_t* fixed, int64_t rows, int64_t in, uint8_t* chosen, Stream stream);

// counts(t, b) = channels of token t at level b. counts: [rows, 17], overwritten.
void count_levels(const uint8_t* chosen, int64_t rows, int64_t in, int32_t* counts, Stream stream);

// out(t, k * in_padded + i) = x(t, i) where chosen(t, i) >= steps[k], else 0; columns in .. in_padded - 1 of
// a part are zero. One product of `out` with the steps' weight differences side by side is then the graded
// product. steps: [count] ascending; out: [rows, count * in_padded], x's type.
void mask_by_level(ConstView x, const uint8_t* chosen, const uint8_t* steps, int32_t count, int64_t in_padded,
                   View out, Stream stream);

}  // namespace grinqh::cuda
