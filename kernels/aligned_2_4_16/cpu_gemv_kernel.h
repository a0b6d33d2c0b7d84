// The arithmetic of the CPU's decoding kernel of "aligned_2_4_16", for raw memory in the order of
// cpu_order.h.
#pragma once

#include <cstdint>

#include "kernels/aligned_2_4_16/cpu_order.h"
#include "kernels/common/outlier_rows.h"

namespace grinqh::aligned_2_4_16 {

// One token's inputs as integers of two bytes with a step a block.
struct RoundedInputs {
  int8_t *upper, *lower;  // [blocks][128]
  float* sums;            // of the integers, [blocks][8]
  float* steps;           // [blocks]
};

// x: a block's inputs, [128].
void round_block(const float* x, int64_t block, RoundedInputs to);

struct TileWeights {
  const uint8_t* blocks;
  OutlierRows outliers;  // added to what codes stand for
  int64_t outputs;       // at most 16
};

// y: [16], overwritten. x: the inputs in their own order, for the outliers.
void multiply_tile(const CpuOrder& order, const TileWeights& weights, const RoundedInputs& inputs,
                   const float* x, float* y);

}  // namespace grinqh::aligned_2_4_16
