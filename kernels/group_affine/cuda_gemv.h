// Product of a layer in the order of gemv_order.h with a few tokens. Needs compute capability 9.0.
#pragma once

#include "cuda/gemv_operands.h"
#include "kernels/group_affine/gemv_order.h"

namespace grinqh::cuda {

struct GroupAffineStream {
  GemvOrder order;
  const uint8_t* chunks = nullptr;       // [ceil(out / 16)][ceil(in / 512)][order.chunk_bytes()]
  const uint8_t* zeros = nullptr;        // likewise [order.zero_bytes()], if it has any
  const uint16_t* row_scales = nullptr;  // per channel: float16 [ceil(out / 16)][8][2], outputs g and g + 8
  const uint16_t* row_zeros = nullptr;   // likewise, float16 of either kind of zero point; null if symmetric
  const uint16_t* column_scales = nullptr;  // float16 [in], or null
  int64_t out = 0, in = 0;

  int64_t row_blocks() const { return (out + GemvOrder::kOutputs - 1) / GemvOrder::kOutputs; }
  int64_t col_chunks() const { return (in + GemvOrder::kInputs - 1) / GemvOrder::kInputs; }
};

// How a launch is cut: clusters of blocks, of which every one has the same outputs and a part of the inputs;
// chunks that a block has room for; bytes that it has under way at once while it waits for its inputs, as
// more would queue before those of the launch ahead.
struct StreamShape {
  int clusters = 0, cluster_blocks = 1, slots = 0, early_bytes = 0;
  int64_t shared_bytes = 0;
};
// On a device of so many multiprocessors. slots = 0 if the layer's input does not fit beside the weights in
// flight.
StreamShape stream_shape(const GroupAffineStream& weights, int tokens, int multiprocessors);

// y = x W^T, 1 to 8 tokens; several launches if the inputs of all do not fit at once.
void group_affine_gemv(const GroupAffineStream& weights, const GemvInput& input, const GemvOutput& output,
                       int multiprocessors, Stream stream);
// The same in one launch, cut as told.
void group_affine_gemv(const GroupAffineStream& weights, const StreamShape& shape, const GemvInput& input,
                       const GemvOutput& output, Stream stream);

}  // namespace grinqh::cuda
