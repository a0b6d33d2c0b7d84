// Product of layers in the order of gemv_order.h with a few tokens. Needs compute capability 9.0.
#pragma once

#include "cuda/gemv_operands.h"
#include "cuda/grading.h"
#include "kernels/nested/gemv_order.h"

namespace grinqh::cuda {

constexpr int kMaxNestedLayers = 4;

// Tiles of several layers one after another; a layer's outputs begin with a tile.
struct NestedStream {
  NestedOrder order;
  const uint8_t* digits = nullptr;  // [tiles][order.tile_bytes()]
  // scale | minimum << 16, float16. Groups along the outputs: [tiles][across][padded_in]. Along the inputs:
  // [tiles][across][groups][128], the outputs of a part in the order (g, h, b, d).
  const uint32_t* grids = nullptr;
  bool by_input = false;
  int group = 0, groups = 0;  // channels of a group, groups; along the inputs only
  int layers = 0;
  int first_tile[kMaxNestedLayers + 1] = {};
  int first_output[kMaxNestedLayers + 1] = {};

  constexpr int tiles() const { return first_tile[layers]; }
};

// What a layer's tokens read: by its rule, or, where the rule has no levels, `level` of all channels.
struct NestedReading {
  GradingRule rule;
  int level = 0;
};

// How a launch is cut: each tile's channels among the blocks of a cluster, clusters taking turns in the
// tiles. prefetched: bytes of a team's first rows that come to the second cache before the inputs are known.
struct NestedLaunch {
  int cluster = 1, clusters = 1;
  int64_t prefetched = 0;
};
// What suits layers of so many outputs: parts of a tile, and the cut.
int nested_parts_across(int64_t out, int multiprocessors);
NestedLaunch nested_launch(const NestedStream& weights, int multiprocessors);

// y = x W^T, 1 to 8 tokens; readings: one a layer. More than four tokens are two launches.
void nested_gemv(const NestedStream& weights, const NestedReading* readings, const GemvInput& input,
                 const GemvOutput& output, int multiprocessors, Stream stream);
// The same, cut as told: for measuring. 1 to 4 tokens.
void nested_gemv(const NestedStream& weights, const NestedLaunch& shape, const NestedReading* readings,
                 const GemvInput& input, const GemvOutput& output, Stream stream);

// Packing of one layer: the layout's buffers (layout.h) to `digits` and `grids` of the layer's first tile.
// group: of the layout, along its axis; groups of the layout.
struct NestedSource {
  const uint8_t* planes = nullptr;
  const uint16_t *scales = nullptr, *minima = nullptr;
  int64_t out = 0, in = 0, group = 0, groups = 0;
};
void pack_nested_digits(const NestedSource& source, const NestedOrder& order, uint8_t* digits, Stream stream);
void pack_nested_grids(const NestedSource& source, const NestedOrder& order, bool by_input, uint32_t* grids,
                       Stream stream);

}  // namespace grinqh::cuda
