// The order of weights that the CPU's decoding kernel of "aligned_2_4_16" streams.
//
// Outputs in tiles of 16, the blocks of rows that share second scales. Groups in the order of their kinds,
// narrow ones, then wide ones, eight to a block, the last block of a kind filled up with groups that are
// nobody's: so there are two plain loops, and inputs are brought into this order once. Codes are quads
// (kernels/common/quad_products-inl.h): 64 bytes are 16 lanes of 32 bits, one an output, and byte k of a lane
// holds inputs k, k + 4, ... of a group, the first lowest. A tile is contiguous, block after block:
//
//   narrow block  codes   [8] of 64 bytes
//                 first   [8][16] bytes: the zero point in the low half, the scale code in the high one
//                 second  [8] pairs of float32: the second scale, and that times the second zero
//   wide block    codes   [8] of 2 x 64 bytes, inputs 0..7 of a group before 8..15
//                 scales  [8][16] float16
//                 zeros   [8][16] bytes
#pragma once

#include <cstdint>

namespace grinqh::aligned_2_4_16 {

struct CpuOrder {
  static constexpr int64_t kTile = 16, kGroup = 16, kBlockGroups = 8, kBlock = kBlockGroups * kGroup;
  static constexpr int64_t kLine = 64;

  static constexpr int64_t kFirst = kBlockGroups * kLine;
  static constexpr int64_t kSecond = kFirst + kBlockGroups * kTile;
  static constexpr int64_t kNarrowBytes = kSecond + kBlockGroups * 8;
  static constexpr int64_t kScales = kBlockGroups * 2 * kLine;
  static constexpr int64_t kZeros = kScales + kBlockGroups * kTile * 2;
  static constexpr int64_t kWideBytes = kZeros + kBlockGroups * kTile;

  int64_t out = 0, in = 0;
  int64_t narrow_groups = 0, wide_groups = 0;

  int64_t tiles() const { return (out + kTile - 1) / kTile; }
  int64_t narrow_blocks() const { return (narrow_groups + kBlockGroups - 1) / kBlockGroups; }
  int64_t wide_blocks() const { return (wide_groups + kBlockGroups - 1) / kBlockGroups; }
  int64_t blocks() const { return narrow_blocks() + wide_blocks(); }
  int64_t tile_bytes() const { return narrow_blocks() * kNarrowBytes + wide_blocks() * kWideBytes; }
};

}  // namespace grinqh::aligned_2_4_16
