// Slots multiplied on the tensor cores as they lie: a register of operand A holds four outputs of a channel,
// and nothing is transposed. What operand B has instead: gemv_columns.cuh.
#pragma once

#include "cuda/byte_products.cuh"
#include "kernels/nested/gemv_columns.cuh"

namespace grinqh::cuda::nested {

// of[token][d] has digits 0 .. d of the bytes, digit e 4^e fold: a mask that keeps the lower digits is one
// instruction less for the whole byte, and differences are exact.
template <class S>
struct Sums {
  int32_t of[S::kTokens][4][4];

  __device__ void clear() {
#pragma unroll
    for (int t = 0; t < S::kTokens; ++t)
#pragma unroll
      for (int i = 0; i < 16; ++i) of[t][i / 4][i % 4] = 0;
  }
  // What was summed is worth 2^bits more than what follows.
  __device__ void raise(int bits) {
#pragma unroll
    for (int t = 0; t < S::kTokens; ++t)
#pragma unroll
      for (int i = 0; i < 16; ++i) of[t][i / 4][i % 4] <<= bits;
  }
};

// Products of a step. near, far: four outputs of channel t, or t + 4: half 0 and half 1 of each digit.
template <class S>
__device__ inline void multiply_step(uint2 near, uint2 far, const uint2 (&b)[S::kTokens], Sums<S>& sums) {
#pragma unroll
  for (int d = 0; d < 4; ++d) {
    const uint32_t mask = ((4u << 2 * d) - 1) * 0x01010101u;
    const uint32_t a0 = near.x & mask, a1 = near.y & mask, a2 = far.x & mask, a3 = far.y & mask;
#pragma unroll
    for (int t = 0; t < S::kTokens; ++t) add_byte_product(sums.of[t][d], a0, a1, a2, a3, b[t].x, b[t].y);
  }
}

// 1-bit digits of eight outputs, and two planes of them, as 2-bit digits; of `planes` the first above.
constexpr uint32_t kLowerBits = 0x55555555u;
__device__ inline uint2 part_digits(uint32_t digits) {
  return {digits & kLowerBits, digits >> 1 & kLowerBits};
}
__device__ inline uint2 join_digits(uint2 planes) {
  return {(planes.x & kLowerBits) << 1 | (planes.y & kLowerBits),
          (planes.x & ~kLowerBits) | (planes.y >> 1 & kLowerBits)};
}

// What a slot has: rows of 2-bit digits, of 1-bit digits, or of two planes of 1-bit digits that are joined.
enum class Rows { pairs, singles, joined };

template <class S, Rows kRows>
constexpr int kPlacesOf = kRows == Rows::singles ? S::kSingleBits : S::kPairs;

// A slot's products with the next steps of `columns`, of which so many have channels; meanwhile() runs when
// all lanes have read the slot.
template <class S, Rows kRows, class Meanwhile>
__device__ inline void multiply_slot(uint32_t slot, const Columns<S>& columns, int steps, int plane, int lane,
                                     Sums<S>& sums, const Meanwhile& meanwhile) {
  constexpr int kSteps = kPlacesOf<S, kRows> / NestedOrder::kStep, kAtOnce = 2;
  constexpr int kRowBytes = kRows == Rows::pairs ? 64 : 32;
  const uint32_t at = slot + lane % 4 * kRowBytes + lane / 4 * (kRowBytes / 8);
#pragma unroll
  for (int first = 0; first < kSteps; first += kAtOnce) {
    uint2 near[kAtOnce], far[kAtOnce], b[kAtOnce][S::kTokens];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int step = first + i;
      const uint32_t near_at = at + step * (8 * kRowBytes), far_at = near_at + 4 * kRowBytes;
      if constexpr (kRows == Rows::pairs) {
        near[i] = load_pair(near_at), far[i] = load_pair(far_at);
      } else {
        near[i] = {load_word(near_at), 0}, far[i] = {load_word(far_at), 0};
        if constexpr (kRows == Rows::joined)
          near[i].y = load_word(near_at + S::kSlotBytes / 2),
          far[i].y = load_word(far_at + S::kSlotBytes / 2);
      }
#pragma unroll
      for (int t = 0; t < S::kTokens; ++t) b[i][t] = columns.load(t, step, plane);
    }
    if (first + kAtOnce == kSteps) {
      __syncwarp();
      meanwhile();
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i >= steps) break;
      if constexpr (kRows == Rows::singles) near[i] = part_digits(near[i].x), far[i] = part_digits(far[i].x);
      if constexpr (kRows == Rows::joined) near[i] = join_digits(near[i]), far[i] = join_digits(far[i]);
      multiply_step<S>(near[i], far[i], b[i], sums);
    }
  }
}

}  // namespace grinqh::cuda::nested
