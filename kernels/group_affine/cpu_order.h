// The order of weights that the CPU's decoding kernel of "group_affine" streams.
//
// Outputs in tiles of 32, two strips of 16; the inputs of a group in blocks of 32, the last one padded with
// codes of 0. A tile is contiguous: block after block, strip after strip, 64 bytes for each bit of a code. 64
// bytes are 16 lanes of 32 bits, one an output; byte j of a lane holds codes of inputs 4 q + j of the block,
// q = 0 .. 7, so that a field of all bytes is four codes of each output (kernels/common/byte_products-inl.h).
// Codes of 2, 4 and 8 bits fill the bytes field by field, lane after lane. Codes of 3 bits go two to a byte;
// the two bits that each of three bytes has over are two codes more. Codes of 5, 6 and 7 bits are two parts:
// their upper bits, then the lower four.
//
// Scales, and zero points beside them, lie apart: [tile][group][32].
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace grinqh::group_affine {

enum class Zeros : uint8_t {
  middle,
  bytes,
  halves
};  // 2^(bits-1) for all; integers; real numbers as float16
constexpr int64_t zero_bytes(Zeros zeros) {
  return zeros == Zeros::middle ? 0 : zeros == Zeros::bytes ? 1 : 2;
}

// Blocks of one group whose inputs share a scale when they are rounded to integers.
struct Span {
  int32_t block, blocks;  // the first, and how many
  int32_t input, inputs;  // inputs that they hold
  int32_t group;
};

struct CpuOrder {
  static constexpr int64_t kTile = 32, kStrip = 16, kBlock = 32;
  // 256 products of a code of 8 bits and an input of 15 stay below 2^31.
  static constexpr int64_t kSpanBlocks = 8;

  int64_t out = 0, in = 0, group = 0;  // group: inputs, at most in
  int bits = 4;
  Zeros zeros = Zeros::bytes;

  int64_t tiles() const { return (out + kTile - 1) / kTile; }
  int64_t groups() const { return (in + group - 1) / group; }
  int64_t blocks() const {
    const int64_t last = in - (groups() - 1) * group;
    return (groups() - 1) * blocks_of(group) + blocks_of(last);
  }
  int64_t block_bytes() const { return 2 * 64 * bits; }
  int64_t tile_bytes() const { return blocks() * block_bytes(); }
  int64_t zero_bytes() const { return group_affine::zero_bytes(zeros); }
  int64_t parameters() const { return tiles() * groups() * kTile; }
  int64_t bytes() const { return tiles() * tile_bytes() + parameters() * (2 + zero_bytes()); }

  static int64_t blocks_of(int64_t inputs) { return (inputs + kBlock - 1) / kBlock; }

  std::vector<Span> spans() const {
    std::vector<Span> all;
    int64_t block = 0;
    for (int64_t g = 0; g < groups(); ++g) {
      const int64_t end = std::min((g + 1) * group, in);
      for (int64_t input = g * group; input < end; input += kSpanBlocks * kBlock) {
        const int64_t inputs = std::min(kSpanBlocks * kBlock, end - input);
        all.push_back({static_cast<int32_t>(block), static_cast<int32_t>(blocks_of(inputs)),
                       static_cast<int32_t>(input), static_cast<int32_t>(inputs), static_cast<int32_t>(g)});
        block += blocks_of(inputs);
      }
    }
    return all;
  }
};

}  // namespace grinqh::group_affine
