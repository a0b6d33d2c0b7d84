// The order of weights that the CPU's decoding kernel of "nested" streams.
//
// Outputs in tiles of 512, two halves of 256; channels in blocks of at most 256 (within a group, where groups
// lie along the inputs). A line is 64 bytes, 16 lanes of 32 bits, and each half of the lanes holds a plane of
// a channel for half a tile: bit k of lane l is output 16 k + l. So the same halves of two channels' lanes
// make pairs (kernels/common/pair_products-inl.h).
//
// A digit is the planes between two levels that follow each other: what a channel reads is whole digits. Two
// planes of a digit share a line, one for each half of the tile; if their number is odd, the halves share the
// last one's.
//
//   lines    [tile][digit][block] of  [half][channel][planes / 2],  then  [channel] for the last of an odd
//   number
//
// Thus channels that are all at one level are read as they lie. Where groups along the outputs are no
// multiple of 16, each is filled up to one with outputs that are nobody's.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

namespace grinqh::nested {

struct CpuOrder {
  static constexpr int64_t kTile = 512, kLanes = 16, kLine = 64;
  // What a block reads at 2 bits stays in the L1 cache beside what is fetched ahead.
  static constexpr int64_t kBlock = 256;
  static constexpr int kPlanes = 8;
  static constexpr int kSums = 16;  // of half a tile, 16 outputs each: one for each bit of half a lane

  // By how many bits codes of sum s are moved up, when bits of 1, 2, 4 or 8 planes are joined to as wide
  // codes and these taken from bytes as they lie.
  static int moved(int width, int s) { return (s - s % width) % 8; }

  int64_t out = 0, in = 0;
  int64_t group = 0;  // of outputs or inputs, at most the axis
  bool along_inputs = false;
  int planes = 8;
  // Of the digit that a plane belongs to: planes before it, and its width.
  std::array<int, kPlanes> before{}, width{};

  struct Block {
    int64_t channel, channels;  // the first, and how many
    int64_t group;              // of inputs; 0 where groups lie along the outputs
  };

  void set_levels(const std::vector<uint8_t>& levels) {
    planes = levels.back();
    int begin = 0;
    for (const int level : levels)
      for (int digit = begin; begin < level; ++begin)
        before[static_cast<size_t>(begin)] = digit, width[static_cast<size_t>(begin)] = level - digit;
  }

  int64_t groups() const { return ((along_inputs ? in : out) + group - 1) / group; }
  // Outputs of a group along the outputs, filled up; then where an output is.
  int64_t group_slots() const { return (group + kLanes - 1) / kLanes * kLanes; }
  int64_t slot(int64_t output) const {
    return along_inputs ? output : output / group * group_slots() + output % group;
  }
  int64_t tiles() const { return slot(out - 1) / kTile + 1; }
  // Groups along the outputs that begin in a tile or reach into it.
  int64_t first_group(int64_t tile) const { return along_inputs ? 0 : tile * kTile / group_slots(); }
  int64_t tile_groups(int64_t tile) const {
    if (along_inputs) return 1;
    const int64_t last = std::min((tile + 1) * kTile, slot(out - 1) + 1) - 1;
    return last / group_slots() - first_group(tile) + 1;
  }

  std::vector<Block> blocks() const {
    std::vector<Block> all;
    const int64_t extent = along_inputs ? group : in;
    for (int64_t begin = 0; begin < in; begin += extent)
      for (int64_t channel = begin; channel < std::min(begin + extent, in); channel += kBlock)
        all.push_back({channel, std::min({kBlock, begin + extent - channel, in - channel}),
                       along_inputs ? begin / extent : 0});
    return all;
  }

  int64_t tile_bytes() const { return in * planes * kLine; }
  // Where a plane of a block's first channel is, for half a tile: from the begin of the tile; to the next
  // channel; by how many bits its half of the lanes is moved up.
  struct Place {
    int64_t begin, stride;
    int shift;
  };
  Place place(const Block& block, int plane, int half) const {
    const int64_t digit = before[static_cast<size_t>(plane)], planes_of = width[static_cast<size_t>(plane)];
    const int64_t at = plane - digit, twos = planes_of / 2;
    const int64_t begin = (in * digit + block.channel * planes_of) * kLine;
    if (at < 2 * twos)
      return {begin + (half * block.channels * twos + at / 2) * kLine, twos * kLine,
              static_cast<int>(at % 2) * 16};
    return {begin + 2 * block.channels * twos * kLine, kLine, half * 16};
  }
  // Scales, and as many minima: [group][in], or [tile][group][512] where groups lie along the inputs.
  int64_t parameters() const { return along_inputs ? tiles() * groups() * kTile : groups() * in; }
};

}  // namespace grinqh::nested
