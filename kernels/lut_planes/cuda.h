// Layout "lut_planes" in device memory (its buffers as layout.h has them) and its kernel.
#pragma once

#include "cuda/types.h"

namespace grinqh::cuda {

struct LutPlanesWeights {
  const uint32_t* planes = nullptr;
  const uint32_t* outlier_rows = nullptr;  // null if there are no outliers
  const void* outlier_columns = nullptr;   // uint32 if `wide_columns`, else uint16
  const uint16_t* outlier_values = nullptr;
  int64_t out = 0, in = 0;
  bool wide_columns = false;
};

// One level: its width, and the tables of all rows, [out][2^bits].
struct LutLevel {
  int bits = 0;
  const uint16_t* tables = nullptr;
};

// out = D_level - D_minus; minus.bits = 0: D_level. out: [weights.out, weights.in]
void dequantize_lut_planes(const LutPlanesWeights& weights, LutLevel level, LutLevel minus, View out,
                           Stream stream);

}  // namespace grinqh::cuda
