#include "kernels/nested/cuda_gemv_division.h"

#include <algorithm>

#include "kernels/nested/gemv_order.h"

namespace grinqh {

namespace {

constexpr int kQuantum = NestedRun::kQuantum;
// Runs of so many units may begin in one tile and end in another.
constexpr int kUnitsOfLongRuns = 2;

int divide_up(int a, int b) { return (a + b - 1) / b; }

// Where each run begins, in quanta of all tiles, and where the last ends.
std::vector<int> cut(int tiles, int quanta, int runs, int most_unit) {
  std::vector<int> begins;
  const int64_t all = int64_t{tiles} * quanta;
  const bool whole =
      tiles <= runs && divide_up(quanta, runs / tiles) * kQuantum <= kUnitsOfLongRuns * most_unit;
  for (int64_t run = 0; run < runs; ++run) {
    if (!whole) {
      begins.push_back(static_cast<int>(all * run / runs));
      continue;
    }
    // A part of the tile that this run lies in.
    const int64_t tile = run * tiles / runs, first = (tile * runs + tiles - 1) / tiles,
                  next = ((tile + 1) * runs + tiles - 1) / tiles;
    begins.push_back(static_cast<int>(tile * quanta + (run - first) * quanta / (next - first)));
  }
  begins.push_back(static_cast<int>(all));
  return begins;
}

}  // namespace

NestedDivision divide(const NestedTiles& tiles, int blocks, int warps, int most_unit) {
  const int all_tiles = tiles.first_tile.back(), quanta = divide_up(tiles.in, kQuantum),
            runs = blocks * warps;
  const std::vector<int> begins = cut(all_tiles, quanta, runs, most_unit);
  const auto begin_of = [&](int run) { return begins[static_cast<size_t>(run)]; };
  const auto layer_of = [&](int tile) {
    return static_cast<int>(std::ranges::upper_bound(tiles.first_tile, tile) - tiles.first_tile.begin()) - 1;
  };
  NestedDivision division;
  int longest = 1;
  for (int run = 0; run < runs; ++run) {
    const int begin = begin_of(run), count = begin_of(run + 1) - begin, tile = begin / quanta;
    longest = std::max(longest, count * kQuantum);
    division.runs.push_back(
        {tile, (begin - tile * quanta) * kQuantum, count * kQuantum, count == 0 ? 0 : layer_of(tile)});
  }
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
      if (tile < end_tile_of(block)) {
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
        const int layer = layer_of(tile);
        const auto at = static_cast<size_t>(layer);
        sums.output = tiles.first_output[at] + (tile - tiles.first_tile[at]) * NestedOrder::kTile;
        sums.outputs = std::min(NestedOrder::kTile, tiles.first_output[at + 1] - sums.output);
      }
      division.sums.push_back(sums);
    }
  return division;
}

}  // namespace grinqh
