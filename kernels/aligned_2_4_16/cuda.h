// Layout "aligned_2_4_16" in device memory (its buffers as layout.h has them) and its kernel.
#pragma once

#include "cuda/types.h"

namespace grinqh::cuda {

struct Aligned2416Weights {
  const int32_t* places = nullptr;  // [groups]: a narrow group's number among its kind; ~number of a wide one
  const uint32_t* codes = nullptr;
  const uint32_t* split = nullptr;
  const uint16_t* first = nullptr;
  const uint16_t* second_scales = nullptr;
  const uint16_t* second_zeros = nullptr;
  const uint16_t* wide_scales = nullptr;
  const uint8_t* wide_zeros = nullptr;
  const uint32_t* outlier_rows = nullptr;  // [out + 1]: where the outliers of a row begin
  const uint16_t* outlier_columns = nullptr;
  const uint16_t* outlier_values = nullptr;
  int64_t out = 0, in = 0;
  int64_t groups = 0, narrow_groups = 0, wide_groups = 0;
};

// out: [weights.out, weights.in]
void dequantize_aligned_2_4_16(const Aligned2416Weights& weights, View out, Stream stream);

}  // namespace grinqh::cuda
