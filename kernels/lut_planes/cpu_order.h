// The order of weights that the CPU's decoding kernel of "lut_planes" streams.
//
// Outputs in tiles of 16, inputs in blocks of 512, four blocks a span (the last one may have fewer). A line
// is 64 bytes, a bit for each input of a block: bit k of byte p belongs to one of the inputs 64 s + p. The
// first two planes are digits, two lines a block: field f of line l is the digit of the inputs s = 4 l + f.
// Planes after them take one line each; of the third and fourth the bits are where a mask puts them above the
// digits that they belong to, so that four planes become nibbles by masks alone (cpu_gemv_kernel.cpp).
//
//   segments  the digits, then plane after plane from the third on: nothing of a segment is read that the
//             level leaves out. Each is  [tile][span][output][block][line]
//   tables    a level after the other, [output] of 2^b 16-bit integers, their low bytes before the high ones,
//             sixteen by sixteen: by the lowest b - 4 bits of a code, then by the other four as the nibbles
//             have them (index()). Level 1 is stored as level 2.
#pragma once

#include <algorithm>
#include <cstdint>

namespace grinqh::lut_planes {

struct CpuOrder {
  static constexpr int64_t kTile = 16, kBlock = 512, kSpanBlocks = 4, kLine = 64;
  static constexpr int kSlots = 8;  // inputs that share a byte of the lines: 64 apart
  static constexpr int kSegments = 7;
  // Entries and inputs are integers up to this: 32 products of them stay below 2^31.
  static constexpr float kLimit = 8191;

  int64_t out = 0, in = 0;
  int planes = 2;  // at least two

  int64_t tiles() const { return (out + kTile - 1) / kTile; }
  int64_t blocks() const { return (in + kBlock - 1) / kBlock; }
  int64_t line_bytes() const { return tiles() * kTile * blocks() * kLine; }  // of one plane

  int segments() const { return planes - 1; }
  static int lines_of(int segment) { return segment == 0 ? 2 : 1; }
  int64_t segment_begin(int segment) const { return segment == 0 ? 0 : (segment + 1) * line_bytes(); }
  // A tile's bytes in a segment, and where its row of a span begins in them.
  int64_t tile_bytes(int segment) const { return lines_of(segment) * kTile * blocks() * kLine; }
  int64_t row_begin(int segment, int64_t first_block, int64_t row) const {
    const int64_t together = std::min(kSpanBlocks, blocks() - first_block);
    return lines_of(segment) * kLine * (first_block * kTile + row * together);
  }

  // Where in a byte of a plane from the third on the bit of a slot is.
  static int bit_of(int plane, int slot) {
    constexpr int kThird[kSlots] = {2, 3, 6, 7, 0, 1, 4, 5};
    return plane == 2 ? kThird[slot] : plane == 3 ? kThird[slot] ^ 1 : slot;
  }

  static int table_bits(int level) { return std::max(level, 2); }
  // Of one output.
  static int64_t table_bytes(int level) { return int64_t{2} << table_bits(level); }
  // The place of a code of `level` bits among the low bytes of its table; the high byte is `high` after it.
  static int table_place(int level, int code) {
    if (level == 1) return code << 1;  // and once more at the other values of the second plane
    const int nibble = level > 4 ? code >> (level - 4) : code << (4 - level);
    const int index = nibble >> 2 | (nibble >> 1 & 1) << 2 | (nibble & 1) << 3;
    return level > 4 ? (code & ((1 << (level - 4)) - 1)) * 32 + index : index;
  }
  static int high_after(int level) { return std::min(16, 1 << table_bits(level)); }
};

}  // namespace grinqh::lut_planes
