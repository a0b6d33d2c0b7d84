// The order in which the decoding kernel reads a layer of layout "group_affine": chunks of 16 outputs x 512
// inputs, the chunks of 16 outputs one after another, each one run of bytes between multiples of 128. (Also
// read by device code: raw numbers only.)
//
//   codes    4 steps, each four products of 16 outputs x 32 inputs on the tensor cores, one for each of four
//            groups q. Lane 4 g + t of a warp holds outputs g and g + 8, inputs 8 t .. 8 t + 7 of a product,
//            in four words: (g, first four), (g + 8, first four), (g, last four), (g + 8, last four), a byte
//            an input. Several products share a byte: see place_of().
//   scales   of every block of four groups: float16 [8 g][4 q][2], outputs g and g + 8
//   zeros    likewise, if they are float16. Integers of `bits` each lie outside the chunks, which they would
//            shift: in the same order, without gaps, every block of four groups to a multiple of 16 bytes
//
// A group of 32, 64 or 128 inputs takes 1, 2 or 4 steps. Where a row is one group, scales and zeros lie
// outside the chunks and "groups" of 128 are but parts of it.
#pragma once

#include <cstdint>

namespace grinqh {

struct GemvOrder {
  static constexpr int kOutputs = 16, kInputs = 512, kSteps = 4, kLanes = 32;
  enum class Zeros : uint8_t { none, integers, halves };

  int bits = 4;  // 2, 3, 4 or 8
  int group = 128;
  bool per_channel = false;
  Zeros zeros = Zeros::integers;

  constexpr int group_steps() const { return group / 32; }
  constexpr int blocks() const { return kSteps / group_steps(); }  // of four groups, in a chunk
  constexpr int code_bytes() const { return kOutputs * kInputs * bits / 8; }
  constexpr int block_bytes() const { return per_channel ? 0 : zeros == Zeros::halves ? 256 : 128; }
  constexpr int chunk_bytes() const { return code_bytes() + blocks() * block_bytes(); }
  // Integer zero points of four groups, and of a chunk.
  constexpr int zero_block_bytes() const {
    return per_channel || zeros != Zeros::integers ? 0 : (8 * bits + 15) / 16 * 16;
  }
  constexpr int zero_bytes() const { return blocks() * zero_block_bytes(); }
  // Bytes of shared memory that a chunk and its zero points take.
  constexpr int slot_bytes() const { return (chunk_bytes() + zero_bytes() + 127) / 128 * 128; }

  // Where the code of step s, group q, word `word` (0..3) of a lane lies in the chunk, for its byte 0.
  struct Place {
    int byte;   // of the word
    int shift;  // within each byte of it
  };
  constexpr Place place_of(int s, int q, int lane, int word) const {
    const int vectors = bits == 3 ? 3 : bits / 2;  // of four words a lane, in a step; 3 bits: in two steps
    if (bits != 3) {
      const int share = 8 / bits;
      return {((s * vectors + q / share) * kLanes + lane) * 16 + word * 4, q % share * bits};
    }
    // Vector 0 has q = 0, 1 of the even step, 1 of the odd one, 2 has q = 2, 3 of the even step in the low
    // six bits of its bytes. q = 2, 3 of the odd step lie two bits each in the high bits of the three:
    // split().
    const int vector = q < 2 ? s % 2 : 2;
    return {((s / 2 * vectors + vector) * kLanes + lane) * 16 + word * 4, q % 2 * 3};
  }
  constexpr bool is_split(int s, int q) const { return bits == 3 && s % 2 == 1 && q >= 2; }

  // The input of byte i of a word of a lane, within the chunk.
  constexpr int input_of(int s, int q, int lane, int word, int i) const {
    const int block = s / group_steps(), step = s % group_steps();
    return (block * 4 + q) * group + step * 32 + lane % 4 * 8 + word / 2 * 4 + i;
  }
  static constexpr int output_of(int lane, int word) { return lane / 4 + word % 2 * 8; }
};

// One chunk's codes; code(output, input) within it, 0 beyond the layer's edge. to: code_bytes(), zeroed.
template <class Code>
void pack_gemv_codes(const GemvOrder& order, const Code& code, uint8_t* to) {
  for (int s = 0; s < GemvOrder::kSteps; ++s)
    for (int q = 0; q < 4; ++q)
      for (int lane = 0; lane < GemvOrder::kLanes; ++lane)
        for (int word = 0; word < 4; ++word)
          for (int i = 0; i < 4; ++i) {
            const uint32_t value =
                code(GemvOrder::output_of(lane, word), order.input_of(s, q, lane, word, i));
            if (!order.is_split(s, q)) {
              const GemvOrder::Place place = order.place_of(s, q, lane, word);
              to[place.byte + i] |= static_cast<uint8_t>(value << place.shift);
              continue;
            }
            // Bits 3 (q - 2) .. + 2 of six that the kernel puts together from pairs of three vectors.
            const uint32_t six = value << (q - 2) * 3;
            for (int vector = 0; vector < 3; ++vector) {
              const int byte = ((s / 2 * 3 + vector) * GemvOrder::kLanes + lane) * 16 + word * 4 + i;
              to[byte] |= static_cast<uint8_t>((six >> 2 * vector & 3u) << 6);
            }
          }
}

}  // namespace grinqh
