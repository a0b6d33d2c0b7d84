// From sums of integers to a warp's sums of a tile, of several tokens.
#pragma once

#include "kernels/nested/gemv_integers.cuh"
#include "kernels/nested/gemv_token_products.cuh"

namespace grinqh::cuda::nested {

// Of this lane's token, lane % 4, number 16 h + 8 (b / 2) + 2 d + b % 2: 64 b + 16 d + 8 h + g with g = lane
// /
// 4. grids: of the unit's group, [g][number]; along the inputs only.
template <class S>
struct TokenOutputs {
  static constexpr int kOutputs = NestedOrder::kTile / 8;
  float of[kOutputs];
  float middles[S::kColumns];  // what does not depend on the digits; along the outputs only

  __device__ void clear() {
#pragma unroll
    for (float& each : of) each = 0;
#pragma unroll
    for (float& each : middles) each = 0;
  }

  __device__ void add_middles(const Factors<S>& factors, int lane, const uint32_t* grids) {
    if constexpr (!S::kByInput) {
#pragma unroll
      for (int j = 0; j < S::kColumns; ++j) middles[j] += factors.middles[j];
    } else {
#pragma unroll
      for (int number = 0; number < kOutputs; ++number) {
        const uint32_t grid = grids[lane / 4 * kOutputs + number];
        of[number] += fmaf(scale_of(grid), factors.middles[0], minimum_of(grid) * factors.inputs);
      }
    }
  }

  // As Outputs has it.
  __device__ void add_digits(const TokenSums& sums, int last_end, float step, int lane,
                             const uint32_t* grids) {
    const float unit = step * __uint_as_float((127 + 8 - last_end) << 23);
#pragma unroll
    for (int number = 0; number < kOutputs; ++number) {
      const int h = number / 16, d = number / 2 % 4;
      const auto& byte = sums.of[byte_of(number)];
      const auto digit = [&](int i) { return byte[d][i] - (d == 0 ? 0 : byte[d == 0 ? 0 : d - 1][i]); };
      const float sum = fmaf(static_cast<float>(digit(2 * h)), 256.0f, static_cast<float>(digit(2 * h + 1))) *
                        (unit * __uint_as_float((127 - 2 * d) << 23));
      of[number] = S::kByInput ? fmaf(scale_of(grids[lane / 4 * kOutputs + number]), sum, of[number])
                               : of[number] + sum;
    }
  }

  // Leaves them for the block, [tokens][256].
  __device__ void leave(uint8_t* to, int lane) const {
    float* sums = reinterpret_cast<float*>(to) + lane % S::kTokens * NestedOrder::kTile + lane / 4;
#pragma unroll
    for (int number = 0; number < kOutputs; ++number)
      sums[64 * byte_of(number) + 16 * (number / 2 % 4) + 8 * (number / 16)] =
          of[number] + middles[byte_of(number) * S::kColumns / 4];
  }

 private:
  __device__ static constexpr int byte_of(int number) { return number / 8 % 2 * 2 + number % 2; }
};

}  // namespace grinqh::cuda::nested
