// Layout "group_affine" in device memory (its buffers as layout.h has them) and its kernel.
#pragma once

#include "cuda/types.h"

namespace grinqh::cuda {

struct GroupAffineWeights {
  const uint8_t* codes = nullptr;
  const uint16_t* scales = nullptr;
  const uint8_t* zeros = nullptr;           // null if symmetric
  const uint16_t* column_scales = nullptr;  // null if there are none
  int64_t out = 0, in = 0;
  int64_t group = 0, groups = 0;  // inputs of a group, groups of a row
  int64_t code_row_bytes = 0, zero_row_bytes = 0;
  int bits = 0;
  bool real_zeros = false;
};

// out: [weights.out, weights.in]
void dequantize_group_affine(const GroupAffineWeights& weights, View out, Stream stream);

}  // namespace grinqh::cuda
