// The arithmetic of the CPU's decoding kernel of "group_affine", for raw memory in the order of cpu_order.h.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/group_affine/cpu_order.h"

namespace grinqh::group_affine {

// One token's inputs as integers of two signed bytes, with a step a span.
struct RoundedInputs {
  int8_t* limbs;  // [blocks][2][32]: the upper ones, the lower ones
  float* steps;   // [spans]
  float* sums;    // [spans], of the rounded inputs
};

// x: [in]; columns: factors of the inputs, [in], or null.
void round_inputs(std::span<const Span> spans, const float* x, const float* columns, RoundedInputs to);

struct TileWeights {
  const uint8_t* codes;
  const uint16_t* scales;  // float16 [groups][32]
  const uint8_t* zeros;    // as the order has them, [groups][32]
};

// y: [tokens][32], overwritten.
void multiply_tile(const CpuOrder& order, std::span<const Span> spans, const TileWeights& weights,
                   std::span<const RoundedInputs> tokens, float* y);

}  // namespace grinqh::group_affine
