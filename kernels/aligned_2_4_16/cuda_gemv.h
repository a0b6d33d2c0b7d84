// Product of layers in the order of gemv_order.h with a few tokens. Needs compute capability 9.0.
#pragma once

#include "cuda/gemv_operands.h"
#include "kernels/aligned_2_4_16/gemv_order.h"

namespace grinqh::cuda {

// Where 16 outputs begin: in runs of Aligned2416Order::kAlignment bytes, and in units of the order.
struct RowBlockBegin {
  uint32_t runs, unit;
};

// One layer, or its share of the inputs.
struct Aligned2416Part {
  Aligned2416Order order;
  const uint8_t* units = nullptr;
  const RowBlockBegin* begins = nullptr;  // [row_blocks + 1]; null if all are as long as the first
  RowBlockBegin second = {};              // where the second one begins
  const int16_t* groups = nullptr;        // [order.slots()]: the group in a slot, -1 if it is empty
  int row_blocks = 0;
  int most_units = 0, most_runs = 0;    // of a row block
  int64_t out = 0, first_out = 0;       // outputs of the layers before it
  int first_cluster = 0, clusters = 0;  // of the grid
};

struct Aligned2416Stream {
  static constexpr int kMostLayers = 4, kMostSplits = 2;
  // Layer after layer, of each its `splits` shares: a cluster of so many blocks adds up what they find.
  Aligned2416Part parts[kMostLayers * kMostSplits];
  int layers = 0, splits = 1;
  int64_t in = 0;
};

// Deals the clusters of a grid out to the layers, none to two of them; at most one block a multiprocessor
// unless there are more layers.
void deal_blocks(Aligned2416Stream& weights, int multiprocessors);

// Copies and arithmetic at the same time: several units are under way to shared memory while one is
// multiplied, the first of them before the input is there. Or one after the other: scales are fetched and
// waited for, then codes, then they are multiplied, and only then comes the next unit.
enum class Dequantization : uint8_t { asynchronous, synchronous };

// Units in flight a warp for `tokens` columns at a time (1, 2 or 4); 0 if the input does not fit into shared
// memory beside them, or a block has more bytes to read than it can count.
int ring_depth(const Aligned2416Stream& weights, int tokens, Dequantization how);

// y = x W^T, 1 to 8 tokens. More than four are two launches.
void aligned_2_4_16_gemv(const Aligned2416Stream& weights, Dequantization how, const GemvInput& input,
                         const GemvOutput& output, Stream stream);

}  // namespace grinqh::cuda
