// The order of weights that the CPU's decoding kernel of "group_mixed" streams.
//
// Outputs in tiles of 16; the inputs of a group in blocks of 32, the last one padded with codes of 0. A tile
// is contiguous, block after block, 64 bytes for each bit of a code: 16 lanes of 32 bits, one an output, and
// byte k of a lane holds inputs k, k + 4, ... of the block (kernels/common/quad_products-inl.h), "quad" q
// being the inputs 4 q .. 4 q + 3.
//
//   1 bit   one line, quad q at bit q of the bytes
//   2 bits  two lines of four fields, 4 bits: four of two; quads in their order
//   3 bits  the lower two as those of 2 bits, then a line of the upper ones, at third_bit(q)
//   5 to 8  two parts: the upper bits as those of so few bits, then the lower four
//
// Scales, zero points (of groups wider than one bit) and means (of the others) lie apart: [tile][group][16].
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace grinqh::group_mixed {

// Blocks of one group whose inputs share a scale when they are rounded to integers.
struct Span {
  int64_t codes;  // bytes of a tile before them
  int32_t blocks;
  int32_t at;             // where its inputs begin when all groups are padded
  int32_t input, inputs;  // those that it holds
  int32_t group, width;
  int32_t place;  // of the group among those of one bit, or among the others
};

struct CpuOrder {
  static constexpr int64_t kTile = 16, kBlock = 32, kLine = 64;
  // 256 products of a code of 8 bits and an input of 16 stay below 2^31.
  static constexpr int64_t kSpanBlocks = 8;

  // Bit of a byte of the third line that belongs to a quad.
  static constexpr int third_bit(int quad) {
    constexpr int kBits[8] = {2, 1, 6, 5, 0, 3, 4, 7};
    return kBits[quad];
  }

  int64_t out = 0, in = 0, group = 0;  // group: inputs, at most in
  std::vector<Span> spans;
  int64_t groups = 0, binary_groups = 0, padded_inputs = 0, tile_bytes = 0;

  CpuOrder(int64_t out, int64_t in, int64_t group, std::span<const uint8_t> widths)
      : out(out), in(in), group(group), groups(static_cast<int64_t>(widths.size())) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t width = widths[static_cast<size_t>(g)], end = std::min((g + 1) * group, in);
      const int64_t place = width == 1 ? binary_groups : g - binary_groups;
      for (int64_t input = g * group; input < end; input += kSpanBlocks * kBlock) {
        const int64_t inputs = std::min(kSpanBlocks * kBlock, end - input);
        const int64_t blocks = (inputs + kBlock - 1) / kBlock;
        spans.push_back({tile_bytes, static_cast<int32_t>(blocks), static_cast<int32_t>(padded_inputs),
                         static_cast<int32_t>(input), static_cast<int32_t>(inputs), static_cast<int32_t>(g),
                         static_cast<int32_t>(width), static_cast<int32_t>(place)});
        padded_inputs += blocks * kBlock;
        tile_bytes += blocks * width * kLine;
      }
      binary_groups += width == 1;
    }
  }

  int64_t tiles() const { return (out + kTile - 1) / kTile; }
};

}  // namespace grinqh::group_mixed
