#include "kernels/nested/cuda_gemv_division.h"

#include <algorithm>

#include "kernels/nested/gemv_order.h"

namespace grinqh {

namespace {

constexpr int kQuantum = NestedRuns::kQuantum;
// Runs of so many units may begin in one tile and end in another.
constexpr int kUnitsOfLongRuns = 2;

int divide_up(int a, int b) { return (a + b - 1) / b; }

NestedRuns runs_of(int tiles, int quanta, int warps, int most_unit) {
  const bool whole =
      tiles <= warps && divide_up(quanta, warps / tiles) * kQuantum <= kUnitsOfLongRuns * most_unit;
  return {tiles, quanta, warps, whole};
}

// Where each run begins, in quanta of all tiles, and where the last ends.
std::vector<int> begins_of(const NestedRuns& runs, int quanta, int warps) {
  std::vector<int> begins{0};
  for (int warp = 0; warp < warps; ++warp) {
    const NestedRun run = runs.of(warp);
    begins.push_back(run.tile * quanta + (run.first + run.left) / kQuantum);
  }
  return begins;
}

}  // namespace

NestedDivision divide(const NestedTiles& tiles, int blocks, int warps, int most_unit) {
  const int all_tiles = tiles.first_tile.back(), quanta = divide_up(tiles.in, kQuantum);
  NestedDivision division;
  division.runs = runs_of(all_tiles, quanta, blocks * warps, most_unit);
  const std::vector<int> begins = begins_of(division.runs, quanta, blocks * warps);
  const auto begin_of = [&](int run) { return begins[static_cast<size_t>(run)]; };
  int longest = 1;
  for (int run = 0; run < blocks * warps; ++run)
    longest = std::max(longest, (begin_of(run + 1) - begin_of(run)) * kQuantum);
  const int units = divide_up(longest, most_unit);
  division.unit = divide_up(divide_up(longest, units), kQuantum) * kQuantum;
  division.single = units == 1;

  const auto first_tile_of = [&](int block) { return begin_of(block * warps) / quanta; };
  const auto end_tile_of = [&](int block) { return divide_up(begin_of((block + 1) * warps), quanta); };
  for (int block = 0; block < blocks; ++block)
    division.sums_of_block = std::max(division.sums_of_block, end_tile_of(block) - first_tile_of(block));
  for (int block = 0; block < blocks; ++block)
    for (int i = 0; i < division.sums_of_block; ++i) {
      const int tile = first_tile_of(block) + i, begin = tile * quanta, end = begin + quanta;
      NestedSums sums{};
      sums.tiles = end_tile_of(block) - first_tile_of(block);
      if (i < sums.tiles) {
        for (int warp = 0; warp < warps; ++warp) {
          const int from = begin_of(block * warps + warp), to = begin_of(block * warps + warp + 1);
          if (from == to || from >= end || to <= begin) continue;
          if (to > end)
            sums.passed = 1;
          else
            sums.warps |= 1u << warp;
        }
        if (begin < begin_of(block * warps)) {
          sums.others = NestedSums::kSent;
        } else {
          while (begin_of((block + sums.others + 1) * warps) < end) ++sums.others;
        }
        const auto at = static_cast<size_t>(std::ranges::upper_bound(tiles.first_tile, tile) -
                                            tiles.first_tile.begin() - 1);
        sums.output = tiles.first_output[at] + (tile - tiles.first_tile[at]) * NestedOrder::kTile;
        sums.outputs = std::min(NestedOrder::kTile, tiles.first_output[at + 1] - sums.output);
      }
      division.sums.push_back(sums);
    }
  return division;
}

}  // namespace grinqh
