// The order in which the decoding kernel reads a layer of layout "group_mixed": chunks of 16 outputs x 512
// inputs, whose groups are all stored with one number of bits; for 16 outputs first the chunks of the fewest
// bits. Which groups lie where is one list for all outputs. (Also read by device code: raw numbers only.)
//
//   codes    digits of 4, 2 and 1 bits, as many as make up the width, or of 8: the lowest digits of all codes
//            first. A digit of d bits takes 4 steps, each four products of 16 outputs x 32 inputs on the
//            tensor cores, one for each of four groups q. Lane 4 g + t of a warp holds outputs g and g + 8,
//            inputs 8 t .. 8 t + 7 of a product, in four words: (g, first four), (g + 8, first four), (g,
//            last four), (g + 8, last four), a byte an input. Several products share a byte.
//   scales   of every block of four groups: float16 [8 g][4 q][2], outputs g and g + 8
//   means    likewise, of groups of one bit
//   zeros    of wider ones, integers of as many bits, in the same order: outside the chunks, which they would
//            shift; every block's without gaps to a multiple of 16 bytes
//
// A group of 32, 64 or 128 inputs takes 1, 2 or 4 steps.
#pragma once

#include <cstdint>

namespace grinqh {

struct MixedOrder {
  static constexpr int kOutputs = 16, kInputs = 512, kSteps = 4, kLanes = 32, kMostBits = 8;
  static constexpr int kDigitBytes = kOutputs * kInputs / 8;  // of one bit a code

  int group = 128;

  constexpr int groups() const { return kInputs / group; }  // of a chunk
  constexpr int blocks() const { return groups() / 4; }
  constexpr int block_steps() const { return group / 32; }
  constexpr int chunk_bytes(int bits) const {
    return bits * kDigitBytes + blocks() * (bits == 1 ? 256 : 128);
  }
  static constexpr int zero_block_bytes(int bits) { return bits == 1 ? 0 : (8 * bits + 15) / 16 * 16; }
  constexpr int zero_bytes(int bits) const { return blocks() * zero_block_bytes(bits); }
  // Bytes of shared memory that a chunk and its zero points take.
  constexpr int slot_bytes(int bits) const {
    return (chunk_bytes(bits) + zero_bytes(bits) + 127) / 128 * 128;
  }

  // Where a digit of step s, group q, word `word` (0..3) of a lane lies, for its byte 0: the vector of the
  // lane's among its digits' vectors, and the shift within each byte.
  struct Place {
    int vector, shift;
  };
  static constexpr Place place_of(int digit, int s, int q) {
    if (digit == 1) return {s / 2, s % 2 * 4 + q};
    const int share = 8 / digit;
    return {s * digit / 2 + q / share, q % share * digit};
  }
  static constexpr int byte_of(const Place& place, int lane, int word) {
    return (place.vector * kLanes + lane) * 16 + word * 4;
  }

  // The group, and the input in it, of byte i of a word of a lane.
  constexpr int group_of(int s, int q) const { return s / block_steps() * 4 + q; }
  constexpr int input_of(int s, int lane, int word, int i) const {
    return s % block_steps() * 32 + lane % 4 * 8 + word / 2 * 4 + i;
  }
  static constexpr int output_of(int lane, int word) { return lane / 4 + word % 2 * 8; }
};

// One chunk's codes of `bits` bits; code(output, group, input in the group). to: zeroed.
template <class Code>
void pack_mixed_codes(const MixedOrder& order, int bits, const Code& code, uint8_t* to) {
  for (int below = 0; below < bits;) {
    const int rest = bits - below, digit = rest >= 8 ? 8 : rest >= 4 ? 4 : rest >= 2 ? 2 : 1;
    for (int s = 0; s < MixedOrder::kSteps; ++s)
      for (int q = 0; q < 4; ++q) {
        const MixedOrder::Place place = MixedOrder::place_of(digit, s, q);
        for (int lane = 0; lane < MixedOrder::kLanes; ++lane)
          for (int word = 0; word < 4; ++word)
            for (int i = 0; i < 4; ++i) {
              const uint32_t value = code(MixedOrder::output_of(lane, word), order.group_of(s, q),
                                          order.input_of(s, lane, word, i));
              to[MixedOrder::byte_of(place, lane, word) + i] |=
                  static_cast<uint8_t>((value >> below & ((1u << digit) - 1)) << place.shift);
            }
      }
    to += digit * MixedOrder::kDigitBytes;
    below += digit;
  }
}

}  // namespace grinqh
