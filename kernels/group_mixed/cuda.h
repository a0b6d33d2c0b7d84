// Layout "group_mixed" in device memory (its buffers as layout.h has them) and its kernel.
#pragma once

#include "cuda/types.h"

namespace grinqh::cuda {

// Where a group's parts lie in every row.
struct MixedGroup {
  int64_t code_bit;   // of the group's first code
  int32_t parameter;  // bits: of the zero point; of a group of one bit: the number of its mean
  int32_t width;
};

struct GroupMixedWeights {
  const MixedGroup* places = nullptr;  // [groups]
  const uint8_t* codes = nullptr;
  const uint16_t* scales = nullptr;
  const uint8_t* zeros = nullptr;
  const uint16_t* means = nullptr;
  int64_t out = 0, in = 0;
  int64_t group = 0, groups = 0;  // inputs of a group, groups of a row
  int64_t code_row_bytes = 0, zero_row_bytes = 0, binary_groups = 0;
};

// out: [weights.out, weights.in]
void dequantize_group_mixed(const GroupMixedWeights& weights, View out, Stream stream);

}  // namespace grinqh::cuda
