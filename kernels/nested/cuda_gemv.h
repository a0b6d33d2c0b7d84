// Layout "nested" in the order that products with a few tokens read it, and those products.
//
//   digits  [tile of outputs][plane][in][a row: the tile's digits, natural order]
//           A plane holds digits of 2 bits where no level splits them, else of 1. 16 outputs are a word of a
//           2-bit row, output i at bits 2 i, and a half word of a 1-bit row, output 4 b + d at bit
//           8 (b / 2) + 2 d + b % 2: where a 2-bit digit with the same d would be worth as much or half of
//           it.
//   grids   scale | minimum << 16, float16 each.
//           groups along the inputs: [tile][group][outputs of the tile]
//           groups along the outputs: [tile][in][groups of the tile]
#pragma once

#include "cuda/grading.h"
#include "cuda/types.h"

namespace grinqh::cuda {

// Of one layer, those of 2-bit digits first.
struct NestedDigitPlanes {
  int32_t count = 0, pairs = 0;  // in all, with 2-bit digits
  int32_t first_end = 8;         // the smallest of `end`
  uint8_t end[8] = {};           // a channel at level b reads the planes with end <= b
  int32_t offset[8] = {};        // bytes from the tile's begin
};

struct NestedGemvWeights {
  const uint8_t* digits = nullptr;
  const uint32_t* grids = nullptr;
  NestedDigitPlanes planes;
  int32_t out = 0, in = 0;
  int32_t tile = 0, tiles = 0;  // outputs of a tile, 512 or 1024
  int32_t tile_bytes = 0;       // of digits
  bool by_input = false;
  // Groups along the inputs are cut into parts of at most 128 channels that share a grid; along the outputs a
  // part is the outputs that share a grid, at least 128, of one tile.
  int32_t part = 0;
  int32_t group = 0, groups = 0;  // inputs: of the layout; outputs: unused, groups of a tile
};

struct NestedGemvCall {
  ConstView x;
  View y;
  int32_t level = 0;  // of all channels, if rule.count == 0
  GradingRule rule;
};

// Memory that calls share, zeroed once.
struct NestedGemvWorkspace {
  float* partials = nullptr;
  int32_t* arrivals = nullptr;  // [tiles]
};
// Floats of `partials`.
int64_t nested_gemv_partials(const NestedGemvWeights& weights, int processors);

void nested_gemv(const NestedGemvWeights& weights, const NestedGemvCall& call,
                 const NestedGemvWorkspace& workspace, int processors, Stream stream);

// From the layout's buffers (layout.h) in device memory.
void pack_nested_digits(const uint8_t* planes, const NestedGemvWeights& weights, uint8_t* digits,
                        Stream stream);
void pack_nested_grids(const uint16_t* scales, const uint16_t* minima, const NestedGemvWeights& weights,
                       int64_t layout_group, int64_t layout_groups, uint32_t* grids, Stream stream);

}  // namespace grinqh::cuda
