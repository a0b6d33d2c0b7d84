// Slots multiplied by a single token as they lie: a register of operand A holds four outputs of a channel,
// and nothing is transposed. What operand B has instead: gemv_columns.cuh.
#pragma once

#include "cuda/byte_products.cuh"
#include "kernels/nested/gemv_columns.cuh"
#include "kernels/nested/gemv_digits.cuh"

namespace grinqh::cuda::nested {

// of[d] has digits 0 .. d of the bytes, digit e 4^e fold.
struct Sums {
  int32_t of[4][4];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < 16; ++i) of[i / 4][i % 4] = 0;
  }
  // What was summed is worth 2^bits more than what follows.
  __device__ void raise(int bits) {
#pragma unroll
    for (int i = 0; i < 16; ++i) of[i / 4][i % 4] <<= bits;
  }
};

// Products of a step. near, far: four outputs of channel t, or t + 4: half 0 and half 1 of each digit.
__device__ inline void multiply_step(uint2 near, uint2 far, uint2 b, Sums& sums) {
#pragma unroll
  for (int d = 0; d < 4; ++d) {
    const uint32_t mask = lower_digits(d);
    add_byte_product(sums.of[d], near.x & mask, near.y & mask, far.x & mask, far.y & mask, b.x, b.y);
  }
}

// A slot's products with the next places of `columns`, of which `rest` have channels; meanwhile() runs when
// all lanes have read the slot.
template <class S, Rows kRows, class Meanwhile>
__device__ inline void multiply_slot(uint32_t slot, const Columns<S>& columns, int rest, int, int lane,
                                     Sums& sums, const Meanwhile& meanwhile) {
  constexpr int kSteps = kPlacesOf<S, kRows> / NestedOrder::kStep, kAtOnce = 2;
  constexpr int kRowBytes = kRows == Rows::pairs ? 64 : 32;
  const int steps = (rest + NestedOrder::kStep - 1) / NestedOrder::kStep;
  const uint32_t at = slot + lane % 4 * kRowBytes + lane / 4 * (kRowBytes / 8);
#pragma unroll
  for (int first = 0; first < kSteps; first += kAtOnce) {
    uint2 near[kAtOnce], far[kAtOnce], b[kAtOnce];
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
      b[i] = columns.load(step);
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
      multiply_step(near[i], far[i], b[i], sums);
    }
  }
}

}  // namespace grinqh::cuda::nested
