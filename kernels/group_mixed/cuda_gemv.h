// Product of a layer in the order of gemv_order.h with a few tokens. Needs compute capability 9.0.
#pragma once

#include "cuda/gemv_operands.h"
#include "kernels/group_mixed/gemv_order.h"

namespace grinqh::cuda {

struct MixedStream {
  MixedOrder order;
  const uint8_t* chunks = nullptr;  // [ceil(out / 16)][row_bytes]
  const uint8_t* zeros = nullptr;   // [ceil(out / 16)][zero_row_bytes]
  const int16_t* groups = nullptr;  // [chunks of 16 outputs][order.groups()]: the layer's, -1: none
  // first[b]: chunks of 16 outputs with fewer than b bits; at[b]: bytes of those before them, and of their
  // zero points.
  int32_t first[MixedOrder::kMostBits + 2] = {};
  int32_t at[MixedOrder::kMostBits + 1] = {}, zeros_at[MixedOrder::kMostBits + 1] = {};
  int32_t row_bytes = 0, zero_row_bytes = 0;
  int64_t out = 0, in = 0;

  int row_blocks() const { return static_cast<int>((out + MixedOrder::kOutputs - 1) / MixedOrder::kOutputs); }
  int col_chunks() const { return first[MixedOrder::kMostBits + 1]; }
};

// How a launch is cut: blocks, and chunks in flight a warp. depth = 0 if the inputs do not fit.
struct MixedLaunch {
  int blocks = 0, depth = 0;
  int64_t shared_bytes = 0;
};
MixedLaunch mixed_launch(const MixedStream& weights, int tokens, int multiprocessors);

// y = x W^T, 1 to 8 tokens; several launches if the inputs of all do not fit at once.
void group_mixed_gemv(const MixedStream& weights, const GemvInput& input, const GemvOutput& output,
                      int multiprocessors, Stream stream);

}  // namespace grinqh::cuda
