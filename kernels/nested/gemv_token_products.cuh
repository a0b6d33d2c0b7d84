// Slots multiplied by several tokens: four outputs of a channel in a word become four channels of an output,
// which is operand A as all tokens' columns take it.
#pragma once

#include "cuda/byte_products.cuh"
#include "kernels/nested/gemv_digits.cuh"
#include "kernels/nested/gemv_token_columns.cuh"

namespace grinqh::cuda::nested {

// Of this lane's token, lane % 4: of[b][d] has outputs 64 b + 16 d + 8 h + g with g = lane / 4, the sums of
// high and of low bytes at 2 h and 2 h + 1; digits 0 .. d as those of Sums.
struct TokenSums {
  int32_t of[4][4][4];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < 64; ++i) of[i / 16][i / 4 % 4][i % 4] = 0;
  }
  // What was summed is worth 2^bits more than what follows.
  __device__ void raise(int bits) {
#pragma unroll
    for (int i = 0; i < 64; ++i) of[i / 16][i / 4 % 4][i % 4] <<= bits;
  }
};

// Of four words, the first bytes as a word, the second ones, ...
__device__ inline void transpose(uint32_t (&w)[4]) {
  const uint32_t lower01 = __byte_perm(w[0], w[1], 0x5140), upper01 = __byte_perm(w[0], w[1], 0x7362),
                 lower23 = __byte_perm(w[2], w[3], 0x5140), upper23 = __byte_perm(w[2], w[3], 0x7362);
  w[0] = __byte_perm(lower01, lower23, 0x5410), w[1] = __byte_perm(lower01, lower23, 0x7632);
  w[2] = __byte_perm(upper01, upper23, 0x5410), w[3] = __byte_perm(upper01, upper23, 0x7632);
}

// A lane's digits of 32 channels, words of channel 16 half + 4 i + t: of[half][h][i]; transposed: of[half][h]
// [b] has channels 16 half + 4 i + t in byte i. 1-bit digits have both h in one word, of[half][0].
struct TokenDigits {
  uint32_t of[2][2][4];

  __device__ void transpose_words(bool singles) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      transpose(of[half][0]);
      if (!singles) transpose(of[half][1]);
    }
  }
};

// Products of a step.
template <class S>
__device__ inline void multiply_step(const TokenDigits& a, const uint2 (&b)[S::kColumns], TokenSums& sums) {
#pragma unroll
  for (int byte = 0; byte < 4; ++byte) {
    const uint2 column = b[byte * S::kColumns / 4];
#pragma unroll
    for (int d = 0; d < 4; ++d) {
      const uint32_t mask = lower_digits(d);
      add_byte_product(sums.of[byte][d], a.of[0][0][byte] & mask, a.of[0][1][byte] & mask,
                       a.of[1][0][byte] & mask, a.of[1][1][byte] & mask, column.x, column.y);
    }
  }
}

// A slot's products with the next places of `columns`, of which `rest` have channels; meanwhile() runs when
// all lanes have read the slot.
template <class S, Rows kRows, class Meanwhile>
__device__ inline void multiply_slot(uint32_t slot, const TokenColumns<S>& columns, int rest, int plane,
                                     int lane, TokenSums& sums, const Meanwhile& meanwhile) {
  constexpr int kSteps = kPlacesOf<S, kRows> / kTokenStep;
  constexpr int kRowBytes = kRows == Rows::pairs ? 64 : 32;
  const uint32_t at = slot + lane % 4 * kRowBytes + lane / 4 * (kRowBytes / 8);
  TokenDigits digits[kSteps];
#pragma unroll
  for (int i = 0; i < 8 * kSteps; ++i) {
    const uint32_t row = at + i * (4 * kRowBytes);
    auto& of = digits[i / 8].of[i / 4 % 2];
    if constexpr (kRows == Rows::pairs) {
      const uint2 pair = load_pair(row);
      of[0][i % 4] = pair.x, of[1][i % 4] = pair.y;
    } else {
      of[0][i % 4] = load_word(row);
      if constexpr (kRows == Rows::joined) {
        const uint2 pair = join_digits({of[0][i % 4], load_word(row + S::kSlotBytes / 2)});
        of[0][i % 4] = pair.x, of[1][i % 4] = pair.y;
      }
    }
  }
  uint2 b[kSteps][S::kColumns];
#pragma unroll
  for (int step = 0; step < kSteps; ++step) columns.load(step, plane, b[step]);
  __syncwarp();
  meanwhile();
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    if (step * kTokenStep >= rest) break;
    TokenDigits& a = digits[step];
    a.transpose_words(kRows == Rows::singles);
    if constexpr (kRows == Rows::singles)
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        auto& of = a.of[i / 4];
        const uint2 parts = part_digits(of[0][i % 4]);
        of[0][i % 4] = parts.x, of[1][i % 4] = parts.y;
      }
    multiply_step<S>(a, b[step], sums);
  }
}

}  // namespace grinqh::cuda::nested
