// Who multiplies what in a launch of the decoding kernel: it depends on the layers and the device alone, so
// it is found once. (Also read by device code: raw numbers only.)
//
// A multiprocessor has one block. The channels of all tiles, tile after tile, are dealt out to the warps of
// all blocks in runs of neighbours: equal ones, or, where a second tile in a run would cost as much as the
// first, such as do not reach from one tile into the next.
#pragma once

#include <cstdint>

namespace grinqh {

// Channels of a warp: `left` from channel `first` of a tile on; none: 0. A tile's last channels may be fewer
// than counted: runs are multiples of kQuantum.
struct NestedRun {
  static constexpr int kQuantum = 16;
  int tile, first, left, layer;
};

// Sums of a tile that a block has.
struct NestedSums {
  static constexpr int kSent = -1;
  uint32_t warps;  // whose last tile it is, a bit each
  int32_t passed;  // 1: another warp has gone on from it to the next tile
  // kSent: another block adds these sums up. Else those of so many blocks after this one are added to them.
  int32_t others;
  int32_t output, outputs;  // of y, the first and how many
  int32_t unused[3];        // so that it is copied by 16 bytes
};

}  // namespace grinqh
