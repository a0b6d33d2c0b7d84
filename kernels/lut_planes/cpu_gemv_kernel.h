// The arithmetic of the CPU's decoding kernel of "lut_planes", for raw memory in the order of cpu_order.h.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/outlier_rows.h"
#include "kernels/lut_planes/cpu_order.h"

namespace grinqh::lut_planes {

// Inputs as integers with a step a block, in the order that the instruction set in use wants.
struct RoundedInputs {
  int16_t* x;    // [blocks][512]
  float* steps;  // [blocks]
};

// x: [in]. One block of it.
void round_block(const CpuOrder& order, const float* x, int64_t block, RoundedInputs to);

struct TileWeights {
  const uint8_t* segments[CpuOrder::kSegments];
  const uint8_t* tables;         // of the level, [16]; 16 bytes beyond the last can be read
  const float* units;            // of the table's integers, [16]
  OutlierRows outliers;          // in place of what their codes stand for
  const uint8_t* outlier_codes;  // a byte each, the first plane highest
  int64_t outputs;               // at most 16
};

// y: [outputs], overwritten. x: [in], what was rounded.
void multiply_tile(const CpuOrder& order, int level, const TileWeights& weights, const RoundedInputs& inputs,
                   const float* x, float* y);

}  // namespace grinqh::lut_planes
