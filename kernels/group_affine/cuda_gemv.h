// Product of a layer in the order of gemv_order.h with a few tokens. Needs compute capability 9.0.
#pragma once

#include "cuda/gemv_operands.h"
#include "kernels/group_affine/gemv_order.h"

namespace grinqh::cuda {

struct GroupAffineStream {
  GemvOrder order;
  const uint8_t* chunks = nullptr;       // [ceil(out / 16)][ceil(in / 512)][order.chunk_bytes()]
  const uint16_t* row_scales = nullptr;  // per channel: float16 [ceil(out / 16)][8][2], outputs g and g + 8
  const uint16_t* row_zeros = nullptr;   // likewise, float16 of either kind of zero point; null if symmetric
  const uint16_t* column_scales = nullptr;  // float16 [in], or null
  int64_t out = 0, in = 0;

  int64_t row_blocks() const { return (out + GemvOrder::kOutputs - 1) / GemvOrder::kOutputs; }
  int64_t col_chunks() const { return (in + GemvOrder::kInputs - 1) / GemvOrder::kInputs; }
};

// How a launch is cut: blocks of the grid, warps of a block, chunks in flight a warp.
struct StreamShape {
  int blocks = 0, warps = 0, depth = 0;
  int64_t shared_bytes = 0;
};
// For `tokens` columns at a time (1 or 4) on a device of so many multiprocessors. depth = 0 if the layer's
// input does not fit beside the weights in flight.
StreamShape stream_shape(const GroupAffineStream& weights, int tokens, int multiprocessors);

// y = x W^T, 1 to 8 tokens. More than four are two launches.
void group_affine_gemv(const GroupAffineStream& weights, const GemvInput& input, const GemvOutput& output,
                       int multiprocessors, Stream stream);
// The same, cut as told: for measuring. 1 to 4 tokens.
void group_affine_gemv(const GroupAffineStream& weights, const StreamShape& shape, const GemvInput& input,
                       const GemvOutput& output, Stream stream);

}  // namespace grinqh::cuda
