// Who multiplies what of layers of layout "nested", against every channel of every tile counted one by one.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>
#include <utility>

#include "kernels/nested/cuda_gemv_division.h"
#include "kernels/nested/gemv_order.h"

namespace grinqh {
namespace {

constexpr int kTile = NestedOrder::kTile, kQuantum = NestedRuns::kQuantum;

NestedTiles tiles_of(const std::vector<int>& outputs, int in) {
  NestedTiles tiles{{0}, {0}, in};
  for (const int out : outputs) {
    tiles.first_tile.push_back(tiles.first_tile.back() + (out + kTile - 1) / kTile);
    tiles.first_output.push_back(tiles.first_output.back() + out);
  }
  return tiles;
}

// Warps of a launch that have channels of a tile, and its channels, padded; each of them must be some warp's.
using Parts = std::map<int, std::map<int, int>>;  // [tile][warp]

Parts parts_of(const NestedDivision& division, const NestedTiles& tiles, int warps) {
  Parts parts;
  const int padded = (tiles.in + kQuantum - 1) / kQuantum * kQuantum;
  int64_t next = 0;  // channel of all tiles: runs follow each other without a gap
  for (int warp = 0; warp < warps; ++warp) {
    const NestedRun run = division.runs.of(warp);
    if (run.left > 0) {
      EXPECT_EQ(int64_t{run.tile} * padded + run.first, next);
    }
    for (int i = 0; i < run.left; ++i, ++next) ++parts[static_cast<int>(next / padded)][warp];
  }
  EXPECT_EQ(next, int64_t{tiles.first_tile.back()} * padded);
  return parts;
}

void expect_right(const NestedDivision& division, const NestedTiles& tiles, int blocks, int warps,
                  int most_unit) {
  ASSERT_EQ(std::ssize(division.sums), blocks * division.sums_of_block);
  EXPECT_LE(division.unit, most_unit);
  EXPECT_EQ(division.unit % kQuantum, 0);
  const Parts parts = parts_of(division, tiles, blocks * warps);
  int longest = 0;
  for (int warp = 0; warp < blocks * warps; ++warp) longest = std::max(longest, division.runs.of(warp).left);
  EXPECT_EQ(division.single, longest <= division.unit);

  // What blocks are told, tile by tile: every warp's part is added up once, and reaches the output.
  std::map<int, std::vector<std::pair<int, NestedSums>>> of_output;  // [first output][block]
  for (int block = 0; block < blocks; ++block)
    for (int i = 0; i < division.sums_of_block; ++i) {
      const NestedSums& sums = division.sums[static_cast<size_t>(block * division.sums_of_block + i)];
      EXPECT_EQ(sums.outputs > 0, i < sums.tiles);
      if (sums.outputs > 0) of_output[sums.output].emplace_back(block, sums);
    }
  ASSERT_EQ(std::ssize(of_output), std::ssize(parts));
  for (const auto& [tile, of_warps] : parts) {
    size_t layer = 0;
    while (tile >= tiles.first_tile[layer + 1]) ++layer;
    const int output = tiles.first_output[layer] + (tile - tiles.first_tile[layer]) * kTile;
    ASSERT_TRUE(of_output.contains(output));
    const auto& told = of_output[output];
    std::map<int, int> added;
    int next_block = told.front().first;
    for (const auto& [block, sums] : told) {
      EXPECT_EQ(block, next_block++);  // they are neighbours, so that their number says who they are
      EXPECT_EQ(sums.outputs, std::min(kTile, tiles.first_output[layer + 1] - output));
      // The first block waits for so many after it, those send.
      EXPECT_EQ(sums.others, block == told.front().first ? std::ssize(told) - 1 : NestedSums::kSent);
      int passing = 0;
      for (int warp = 0; warp < warps; ++warp) {
        const auto of_tile = of_warps.find(block * warps + warp);
        const bool has = of_tile != of_warps.end();
        const bool goes_on =
            has && parts.contains(tile + 1) && parts.at(tile + 1).contains(block * warps + warp);
        EXPECT_EQ((sums.warps >> warp & 1) != 0, has && !goes_on);
        passing += goes_on;
        if (has) ++added[block * warps + warp];
      }
      EXPECT_EQ(sums.passed, passing);
    }
    for (const auto& [warp, channels] : of_warps) EXPECT_EQ(added[warp], 1);
  }
}

TEST(NestedDivision, CoversEveryChannelOfEveryTileOnce) {
  struct Case {
    std::vector<int> outputs;
    int in, blocks, warps, most_unit;
  };
  for (const Case& each :
       {Case{{4096}, 4096, 132, 16, 128}, Case{{14336}, 4096, 132, 16, 128},
        Case{{28672}, 4096, 132, 16, 240}, Case{{4096}, 14336, 132, 16, 128},
        Case{{4096, 1024, 1024}, 4096, 132, 16, 128}, Case{{1}, 1, 132, 16, 128}, Case{{70}, 300, 7, 8, 128},
        Case{{3000}, 96, 5, 16, 128}, Case{{140, 24, 300}, 520, 132, 8, 128},
        Case{{257, 1000}, 777, 3, 16, 240}, Case{{128256}, 128, 132, 16, 240}}) {
    SCOPED_TRACE(fmt::format("{} outputs x {}, {} blocks of {}", each.outputs.front(), each.in, each.blocks,
                             each.warps));
    const NestedTiles tiles = tiles_of(each.outputs, each.in);
    expect_right(divide(tiles, each.blocks, each.warps, each.most_unit), tiles, each.blocks, each.warps,
                 each.most_unit);
  }
}

// As many channels for every warp as there are, or one quantum more, where runs are long.
TEST(NestedDivision, LongRunsAreEqual) {
  const NestedDivision division = divide(tiles_of({128256}, 4096), 132, 16, 240);
  const int all = 501 * 4096 / kQuantum, least = all / (132 * 16) * kQuantum;
  for (int warp = 0; warp < 132 * 16; ++warp) {
    EXPECT_GE(division.runs.of(warp).left, least);
    EXPECT_LE(division.runs.of(warp).left, least + kQuantum);
  }
  EXPECT_FALSE(division.single);
}

// Short ones end with their tiles.
TEST(NestedDivision, ShortRunsHaveOneTile) {
  for (const auto& [out, in] : {std::pair{4096, 4096}, {14336, 4096}, {4096, 14336}, {6144, 4096}}) {
    const NestedDivision division = divide(tiles_of({out}, in), 132, 16, 128);
    EXPECT_TRUE(division.single);
    EXPECT_LE(division.unit, 128);
    for (int warp = 0; warp < 132 * 16; ++warp)
      EXPECT_LE(division.runs.of(warp).first + division.runs.of(warp).left, in);
  }
}

}  // namespace
}  // namespace grinqh
