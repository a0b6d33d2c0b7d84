// Product of layers in the order of gemv_order.h with a few tokens. Needs compute capability 9.0.
#pragma once

#include "cuda/gemv_operands.h"
#include "cuda/grading.h"
#include "kernels/nested/gemv_order.h"
#include "kernels/nested/gemv_schedule.h"

namespace grinqh::cuda {

constexpr int kMaxNestedLayers = 4;

// Positions by the upper bits of a code, for levels that have a table: 2^-8 of the 8-bit step, high bytes and
// low bytes, four to a word. (PRMT looks up four of sixteen at once; there are no wider tables.)
struct NestedTable {
  static constexpr int kMaxLevel = 4;
  uint32_t high[4] = {}, low[4] = {};
};

// The schedule of a launch (gemv_schedule.h), and what its blocks need besides.
struct NestedSchedule {
  static constexpr int kMostTokens = 4;
  static constexpr uint32_t kNothing = 0xffffffffu;

  NestedRuns runs;
  const NestedSums* sums = nullptr;  // [blocks][sums_of_block]
  // Where blocks leave sums of tiles that others have begun: [blocks][kMostTokens][256], kNothing.
  float* exchange = nullptr;
  int blocks = 0, sums_of_block = 0;
  int unit = 0;         // channels that are multiplied at once
  bool single = false;  // no run has more than one unit
};

// Tiles of several layers one after another; a layer's outputs begin with a tile.
struct NestedStream {
  NestedOrder order;
  const uint8_t* digits = nullptr;  // [tiles][order.tile_bytes()]
  // scale | minimum << 16, float16. Groups along the outputs: [tiles][padded_in][columns], a column for 256 /
  // columns outputs. Along the inputs: [tiles][groups][256], in the order of Outputs' lanes.
  const uint32_t* grids = nullptr;
  int columns = 1;            // 1, 2 or 4; 0: groups along the inputs
  int group = 0, groups = 0;  // channels of a group, groups; along the inputs only
  // Channels that have up to so many planes are read by the tables of their levels.
  int tabled_planes = 0;
  NestedTable tables[kMaxNestedLayers][NestedTable::kMaxLevel + 1];  // [layer][level]
  NestedSchedule single_token, several_tokens;
  int layers = 0;
  int first_tile[kMaxNestedLayers + 1] = {};
  int first_output[kMaxNestedLayers + 1] = {};

  constexpr bool by_input() const { return columns == 0; }
  constexpr int tiles() const { return first_tile[layers]; }
  constexpr int64_t grids_of_tile() const {
    return by_input() ? int64_t{groups} * NestedOrder::kTile : int64_t{order.padded_in} * columns;
  }
};

// What a layer's tokens read: by its rule, or, where the rule has no levels, `level` of all channels.
struct NestedReading {
  GradingRule rule;
  int level = 0;
};

// y = x W^T, 1 to 8 tokens; readings: one a layer. More than four tokens are two launches.
void nested_gemv(const NestedStream& weights, const NestedReading* readings, const GemvInput& input,
                 const GemvOutput& output, Stream stream);

// How a schedule is to be made (cuda_gemv_division.h): warps of a block, channels of a unit at most, if no
// run has more than one, and else.
struct NestedCut {
  int warps, most_unit, most_unit_of_many;
};
NestedCut nested_cut(const NestedStream& weights, bool several_tokens);

// Whether a multiprocessor's shared memory has room for launches by these schedules.
bool nested_gemv_fits(const NestedStream& weights);

// Packing of one layer: the layout's buffers (layout.h) to `digits` and `grids` of the layer's first tile.
// group: of the layout, along its axis; groups of the layout.
struct NestedSource {
  const uint8_t* planes = nullptr;
  const uint16_t *scales = nullptr, *minima = nullptr;
  int64_t out = 0, in = 0, group = 0, groups = 0;
};
void pack_nested_digits(const NestedSource& source, const NestedOrder& order, uint8_t* digits, Stream stream);
// columns: as of the stream.
void pack_nested_grids(const NestedSource& source, const NestedOrder& order, int columns, uint32_t* grids,
                       Stream stream);

}  // namespace grinqh::cuda
