// From sums of integers to a warp's sums of a tile, of a single token.
#pragma once

#include "kernels/nested/gemv_products.cuh"

namespace grinqh::cuda::nested {

// A sum of an output's half 0 and one of its half 1, of high bytes of inputs in two lanes of four and of low
// bytes in the others: joined for the half that this lane keeps.
__device__ inline float joined(int first, int second, int lane) {
  const bool upper = lane & 2;  // has low bytes, keeps half 1
  const int other = __shfl_xor_sync(0xffffffffu, upper ? first : second, 2);
  const int high = upper ? other : first, low = upper ? second : other;
  return fmaf(static_cast<float>(high), 256.0f, static_cast<float>(low));
}

// A lane's outputs of a tile, (d, e) being number 2 d + e: 64 b + 16 d + 8 h + g with g = lane / 4, h = lane
// / 2 % 2, b = 2 (lane % 2) + e. grids: of the unit's group, [lane][8]; along the inputs only.
template <class S>
struct Outputs {
  float of[kOwned];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kOwned; ++i) of[i] = 0;
  }

  __device__ void add(float sum, int number, int lane, const uint32_t* grids) {
    of[number] =
        S::kByInput ? fmaf(scale_of(grids[lane * kOwned + number]), sum, of[number]) : of[number] + sum;
  }

  // What does not depend on the digits.
  __device__ void add_middles(const Factors<S>& factors, int lane, const uint32_t* grids) {
#pragma unroll
    for (int i = 0; i < kOwned; ++i) {
      if constexpr (S::kByInput) {
        const uint32_t grid = grids[lane * kOwned + i];
        of[i] += fmaf(scale_of(grid), factors.middles[0], minimum_of(grid) * factors.inputs);
      } else {
        // Of byte 2 (lane % 2) + i % 2.
        constexpr int kColumns = S::kColumns;
        const int first = i % 2 * kColumns / 4, second = (2 + i % 2) * kColumns / 4;
        of[i] += lane & 1 ? factors.middles[second] : factors.middles[first];
      }
    }
  }

  // What was multiplied digit by digit. last_end: of the plane multiplied last. step: what an integer stands
  // for.
  __device__ void add_digits(const Sums& sums, int last_end, float step, int lane, const uint32_t* grids) {
    const float unit = step * __uint_as_float((127 + 8 - last_end) << 23);
#pragma unroll
    for (int d = 0; d < 4; ++d)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const auto digit = [&](int i) {
          return sums.of[d][i] - (d == 0 ? 0 : sums.of[d == 0 ? 0 : d - 1][i]);
        };
        add(joined(digit(e), digit(2 + e), lane) * (unit * __uint_as_float((127 - 2 * d) << 23)), 2 * d + e,
            lane, grids);
      }
  }

  // Leaves them for the block, [256].
  __device__ void leave(uint8_t* to, int lane) const {
    auto* sums = reinterpret_cast<float*>(to) + 128 * (lane % 2) + 8 * (lane / 2 % 2) + lane / 4;
#pragma unroll
    for (int i = 0; i < kOwned; ++i) sums[i % 2 * 64 + i / 2 * 16] = of[i];
  }
};

}  // namespace grinqh::cuda::nested
