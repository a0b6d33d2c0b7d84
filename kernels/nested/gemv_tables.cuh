// Channels that are read by a table: the digits of 16 channels, plane by plane, become nibbles that select
// table entries, four at once, as high and low bytes; these are multiplied as digits are (gemv_products.cuh).
// What an entry's low byte adds to the low byte of an input is below what the integers of inputs resolve, and
// left out.
#pragma once

#include "kernels/nested/gemv_outputs.cuh"

namespace grinqh::cuda::nested {

// Codes of two steps of eight channels. Of word i (half i % 2 of channels t, or t + 4 from 2 on), nibble 2 b
// + k holds the code of digit place 2 k in `even`, of 2 k + 1 in `odd`.
struct Nibbles {
  uint32_t even[2][4] = {}, odd[2][4] = {};

  // The next plane.
  __device__ void append(uint32_t slot, bool singles, int lane) {
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      uint32_t words[4];
      if (singles) {
        const uint32_t at = slot + step * 256 + t * 32 + g * 4;
        const uint32_t near = load_word(at), far = load_word(at + 128);
        words[0] = near, words[1] = near >> 1, words[2] = far, words[3] = far >> 1;
      } else {
        const uint32_t at = slot + step * 512 + t * 64 + g * 8;
        const uint2 near = load_pair(at), far = load_pair(at + 256);
        words[0] = near.x, words[1] = near.y, words[2] = far.x, words[3] = far.y;
      }
      const uint32_t mask = singles ? 0x11111111u : 0x33333333u;
      const int bits = singles ? 1 : 2;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        even[step][i] = even[step][i] << bits | (words[i] & mask);
        odd[step][i] = odd[step][i] << bits | (words[i] >> 2 & mask);
      }
    }
  }
};

// Entries of the four low nibbles of `codes`. kBits: of a code, up to 2, 3 or 4.
template <int kBits>
__device__ inline uint32_t look_up(const uint32_t (&table)[4], uint32_t codes) {
  if constexpr (kBits <= 2) return __byte_perm(table[0], 0, codes);
  if constexpr (kBits == 3) return __byte_perm(table[0], table[1], codes);
  // The highest bit chooses between two tables of eight; as a selector's it would mean something else.
  const uint32_t lower = codes & 0x7777u, upper = __byte_perm(0xff00u, 0, codes >> 3 & 0x1111u);
  return (__byte_perm(table[0], table[1], lower) & ~upper) | (__byte_perm(table[2], table[3], lower) & upper);
}

// Adds the products of up to 16 channels, `steps` times eight, from `position` of the list on. sums.of[2 *
// half + odd] are of digit places of that parity in bytes 2 half and 2 half + 1.
template <class S, int kBits>
__device__ inline void multiply_codes(const Nibbles& codes, const NestedTable& table, const Warp<S>& warp,
                                      int position, int steps, Sums& sums) {
  using B = Columns<S>;
  const int g = warp.lane / 4, byte = g % 4;
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    if (step >= steps) break;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int column = (2 * half + byte / 2) * S::kColumns / 4;
      const uint2 word = B::words(B::words_at(warp, true, column) + (position / 8 + step) * kStepBytes<S>);
      const uint32_t near = __byte_perm(word.x, 0, B::selector(byte, column, g < 4, false)),
                     far = __byte_perm(word.y, 0, B::selector(byte, column, g < 4, true));
      // Low bytes of entries times high bytes of inputs, where high bytes times low bytes are.
      const uint32_t near_of_low =
                         g < 4 ? 0u : __byte_perm(word.x, 0, B::selector(byte, column, true, false)),
                     far_of_low = g < 4 ? 0u : __byte_perm(word.y, 0, B::selector(byte, column, true, true));
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        uint32_t high[4], low[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const uint32_t four = (odd == 0 ? codes.even : codes.odd)[step][i] >> 16 * half;
          high[i] = look_up<kBits>(table.high, four);
          low[i] = look_up<kBits>(table.low, four);
        }
        auto& sum = sums.of[2 * half + odd];
        add_byte_product(sum, high[0], high[1], high[2], high[3], near, far);
        add_byte_product(sum, low[0], low[1], low[2], low[3], near_of_low, far_of_low);
      }
    }
  }
}

// Adds what multiply_codes() summed to a lane's outputs.
template <class S>
__device__ inline void add_code_sums(const Sums& sums, int lane, float unit, const uint32_t* grids,
                                     Outputs<S>& y) {
#pragma unroll
  for (int odd = 0; odd < 2; ++odd)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float of_half[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const auto& sum = sums.of[2 * half + odd];
        of_half[half] = joined(sum[e], sum[2 + e], lane) * unit;
      }
      // This lane has byte 2 half + lane % 2 of its digit place, and is to have bytes 2 (lane % 2) and + 1.
      const bool second = lane & 1;
      const float other = __shfl_xor_sync(0xffffffffu, second ? of_half[0] : of_half[1], 1);
      const int d = 2 * e + odd;
      y.add(second ? other : of_half[0], 2 * d, lane, grids);
      y.add(second ? of_half[1] : other, 2 * d + 1, lane, grids);
    }
}

}  // namespace grinqh::cuda::nested
