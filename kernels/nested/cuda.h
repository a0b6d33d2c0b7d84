// Layout "nested" in device memory (its buffers as layout.h has them) and its kernels.
#pragma once

#include "cuda/types.h"

namespace grinqh::cuda {

struct NestedWeights {
  const uint8_t* planes = nullptr;
  const uint16_t* scales = nullptr;
  const uint16_t* minima = nullptr;
  const uint16_t* table = nullptr;  // null if there is none
  int64_t out = 0, in = 0;
  int64_t group = 0, groups = 0;  // weights of a group and groups, along the axis
  bool by_input = false;          // groups lie along the inputs
  int table_levels = 0;
};

// out = D_level - D_minus; 0 <= minus < level. out: [weights.out, weights.in]
void dequantize_nested(const NestedWeights& weights, int level, int minus, View out, Stream stream);

}  // namespace grinqh::cuda
