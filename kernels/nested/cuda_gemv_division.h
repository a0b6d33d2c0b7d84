// Makes the schedule of gemv_schedule.h.
#pragma once

#include <vector>

#include "kernels/nested/gemv_schedule.h"

namespace grinqh {

// Layers one after another, each with whole tiles: tiles and outputs before each of them, and of all.
struct NestedTiles {
  std::vector<int> first_tile, first_output;
  int in = 0;  // channels
};

struct NestedDivision {
  int unit = 0;           // channels that a warp multiplies at once, a multiple of NestedRuns::kQuantum
  bool single = false;    // no run has more than one unit
  int sums_of_block = 0;  // rows of `sums` for each block; those beyond its tiles mean nothing
  NestedRuns runs;
  std::vector<NestedSums> sums;
};

// For blocks of `warps` warps each, and at most `most_unit` channels in a unit.
NestedDivision divide(const NestedTiles& tiles, int blocks, int warps, int most_unit);

}  // namespace grinqh
