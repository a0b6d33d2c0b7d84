// Who multiplies what in a launch of the decoding kernel: it depends on the layers and the device alone.
// (Also read by device code: raw numbers only.)
//
// A multiprocessor has one block. The channels of all tiles, tile after tile, are dealt out to the warps of
// all blocks in runs of neighbours: equal ones, or, where a second tile in a run would cost as much as the
// first, such as do not reach from one tile into the next.
#pragma once

#include <cstdint>

namespace grinqh {

// Channels of a warp: `left` from channel `first` of a tile on, 0: none. A tile's last ones may be fewer than
// counted: runs are whole quanta.
struct NestedRun {
  int tile = 0, first = 0, left = 0;
};

// Runs of all warps, which each finds for itself.
class NestedRuns {
 public:
  static constexpr int kQuantum = 16;  // channels

  constexpr NestedRuns() = default;
  // quanta: of a tile. whole: no run reaches from one tile into the next; there are no more tiles than warps
  // then.
  constexpr NestedRuns(int tiles, int quanta, int warps, bool whole)
      : tiles_(static_cast<uint32_t>(tiles)),
        quanta_(static_cast<uint32_t>(quanta)),
        warps_(static_cast<uint32_t>(warps)),
        whole_(whole) {}

  // warp: of the launch.
  constexpr NestedRun of(int warp) const {
    const auto i = static_cast<uint32_t>(warp);
    if (!whole_) {
      const uint32_t begin = share(i), tile = begin / quanta_;
      return run(tile, begin - tile * quanta_, share(i + 1) - begin);
    }
    // Warps `first` .. next - 1 have parts of tile i tiles / warps.
    const uint32_t tile = i * tiles_ / warps_, first = (tile * warps_ + tiles_ - 1) / tiles_,
                   next = ((tile + 1) * warps_ + tiles_ - 1) / tiles_;
    const uint32_t begin = (i - first) * quanta_ / (next - first);
    return run(tile, begin, (i - first + 1) * quanta_ / (next - first) - begin);
  }

 private:
  // Of the quanta of all tiles, those before warp i's.
  constexpr uint32_t share(uint32_t i) const {
    return static_cast<uint32_t>(uint64_t{tiles_} * quanta_ * i / warps_);
  }
  static constexpr NestedRun run(uint32_t tile, uint32_t first, uint32_t count) {
    return {static_cast<int>(tile), static_cast<int>(first * kQuantum), static_cast<int>(count * kQuantum)};
  }

  uint32_t tiles_ = 0, quanta_ = 0, warps_ = 1;
  bool whole_ = false;
};

// Sums of a tile that a block has.
struct NestedSums {
  static constexpr int kSent = -1;
  uint32_t warps;  // whose last tile it is, a bit each
  int32_t passed;  // 1: another warp has gone on from it to the next tile
  // kSent: another block adds these sums up. Else those of so many blocks after this one are added to them.
  int32_t others;
  int32_t output, outputs;  // of y, the first and how many
  int32_t tiles;            // that the block has sums of: the same in all its rows
  int32_t unused[2];        // so that it is copied by 16 bytes
};

}  // namespace grinqh
