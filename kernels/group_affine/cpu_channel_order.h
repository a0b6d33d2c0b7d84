// The order of 8-bit codes that the CPU's decoding kernel streams where channels are left out.
//
// Outputs in tiles of 1024, the last one narrower; a tile is contiguous, channel after channel, so that what
// a channel saves by being left out is 1 KB in one piece. 64 codes are a line; outputs that are nobody's fill
// up the last line with zeros. Scales, and zero points beside them, lie apart: [tile][group][width].
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/group_affine/cpu_order.h"

namespace grinqh::group_affine {

// Neighbouring channels of one group, whose products are scaled together.
struct ChannelSpan {
  int32_t first, count, group;
};

struct ChannelOrder {
  static constexpr int64_t kTile = 1024, kLine = 64;  // outputs
  // So few channels of a tile stay in the second cache until the last token has read them.
  static constexpr int64_t kSpan = 128;

  int64_t out = 0, in = 0, group = 0;  // group: inputs, at most in
  Zeros zeros = Zeros::bytes;

  int64_t tiles() const { return (out + kTile - 1) / kTile; }
  int64_t groups() const { return (in + group - 1) / group; }
  // Of a tile, whole lines.
  int64_t width(int64_t tile) const {
    return std::min(kTile, (out - tile * kTile + kLine - 1) / kLine * kLine);
  }
  int64_t outputs() const { return (tiles() - 1) * kTile + width(tiles() - 1); }
  int64_t tile_codes(int64_t tile) const { return tile * kTile * in; }
  int64_t tile_parameters(int64_t tile) const { return tile * kTile * groups(); }
  int64_t codes() const { return outputs() * in; }
  int64_t parameters() const { return outputs() * groups(); }
  int64_t zero_bytes() const { return group_affine::zero_bytes(zeros); }

  std::vector<ChannelSpan> spans() const {
    std::vector<ChannelSpan> all;
    for (int64_t g = 0; g < groups(); ++g) {
      const int64_t end = std::min((g + 1) * group, in);
      for (int64_t first = g * group; first < end; first += kSpan)
        all.push_back({static_cast<int32_t>(first), static_cast<int32_t>(std::min(kSpan, end - first)),
                       static_cast<int32_t>(g)});
    }
    return all;
  }
};

}  // namespace grinqh::group_affine
