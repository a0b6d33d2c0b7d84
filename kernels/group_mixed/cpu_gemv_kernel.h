// The arithmetic of the CPU's decoding kernel of "group_mixed", for raw memory in the order of cpu_order.h.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/group_mixed/cpu_order.h"

namespace grinqh::group_mixed {

// One token's inputs as integers of two bytes with a step a span.
struct RoundedInputs {
  int8_t *upper, *lower;  // [padded inputs]
  float* steps;           // [spans]
  float* sums;            // [spans], of the rounded inputs
};

// x: [in]. One span of it.
void round_span(std::span<const Span> spans, int64_t at_span, const float* x, RoundedInputs to);

struct TileWeights {
  const uint8_t* codes;
  const uint16_t* scales;  // float16 [groups][16]
  const uint8_t* zeros;    // [groups wider than one bit][16]
  const uint16_t* means;   // float16 [groups of one bit][16]
};

// y: [16], overwritten.
void multiply_tile(std::span<const Span> spans, const TileWeights& weights, const RoundedInputs& inputs,
                   float* y);

}  // namespace grinqh::group_mixed
