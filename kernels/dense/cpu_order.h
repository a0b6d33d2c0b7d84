// The order of weights that the CPU's decoding kernel of "dense16" streams.
//
// Outputs in tiles of 512, the last one narrower; a tile is contiguous, channel after channel, so that what a
// channel saves by being left out is 1 KB in one piece. 64 bytes are a line of 32 outputs; outputs that are
// nobody's fill up the last line with zeros. float16: one output after the other. bfloat16: 16 lanes of 32
// bits, output l in the low half of lane l and output 16 + l in the high one, as both halves become float32
// by one instruction each.
#pragma once

#include <algorithm>
#include <cstdint>

namespace grinqh::dense {

struct CpuOrder {
  static constexpr int64_t kTile = 512, kLine = 32;  // outputs

  int64_t out = 0, in = 0;
  bool bf16 = true;

  int64_t tiles() const { return (out + kTile - 1) / kTile; }
  // Of a tile, whole lines.
  int64_t width(int64_t tile) const {
    return std::min(kTile, (out - tile * kTile + kLine - 1) / kLine * kLine);
  }
  int64_t tile_begin(int64_t tile) const { return tile * kTile * in; }  // in weights
  int64_t weights() const { return tile_begin(tiles() - 1) + width(tiles() - 1) * in; }
  // Where an output of a tile is within its channel.
  int64_t place(int64_t output) const {
    if (!bf16) return output;
    const int64_t in_line = output % kLine;
    return output / kLine * kLine + in_line % 16 * 2 + in_line / 16;
  }
};

}  // namespace grinqh::dense
