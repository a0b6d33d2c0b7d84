// Products of codes with integer inputs on the tensor cores, and what their sums mean.
#pragma once

#include "cuda/byte_products.cuh"
#include "kernels/group_affine/gemv_codes.cuh"

namespace grinqh::cuda {

// Of four values the one with this lane's number, t.
__device__ inline int own(int a, int b, int c, int d, int t) {
  const int even = t < 2 ? a : c, odd = t < 2 ? b : d;
  return t % 2 == 0 ? even : odd;
}

// Sums of one block of four groups for outputs g and g + 8. kSets: of four tokens; 0: a single token, whose
// four groups the four lanes of an output have.
template <int kBits, int kSets>
struct Sums {
  static constexpr int kColumns = kSets < 2 ? 1 : kSets;  // B operands of a product
  int acc[4][kColumns][4];

  __device__ void clear() {
#pragma unroll
    for (int q = 0; q < 4; ++q)
#pragma unroll
      for (int set = 0; set < kColumns; ++set)
#pragma unroll
        for (int i = 0; i < 4; ++i) acc[q][set][i] = 0;
  }

  // b_at: this lane's column of group 0.
  __device__ void add(const Codes<kBits>& codes, int odd, const uint8_t* const (&b_at)[kColumns],
                      int q_bytes) {
    uint2 b[kColumns];
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      uint32_t a[4];
      codes.take(odd, q, a);
#pragma unroll
      for (int set = 0; set < kColumns; ++set) {
        if (q == 0 || kSets > 0) b[set] = *reinterpret_cast<const uint2*>(b_at[set] + q * q_bytes);
        add_byte_product(acc[q][set], a[0], a[1], a[2], a[3], b[set].x, b[set].y);
      }
    }
  }

  // of_x: the block's first group of the first of `tokens`, which have so many `groups` each. t: the lane's
  // number among four.
  __device__ void scale(const Grid<kBits, kSets>& grid, bool half_zeros, int tokens, int groups,
                        const float2* of_x, int t, float (&y)[kColumns][2]) const {
#pragma unroll
    for (int q = 0; q < Grid<kBits, kSets>::kEntries; ++q) {
      const float2 s = of_halves(grid.scales[q]), z = grid.zero(q, half_zeros);
      const float factor = Codes<kBits>::factor(kSets == 0 ? t : q);
#pragma unroll
      for (int set = 0; set < kColumns; ++set) {
        int whole[4];
#pragma unroll
        for (int i = 0; i < 4; ++i)
          whole[i] =
              kSets == 0 ? own(acc[0][0][i], acc[1][0][i], acc[2][0][i], acc[3][0][i], t) : acc[q][set][i];
        const float2 x = kSets == 0 ? of_x[t] : of_x[min(set * 4 + t, tokens - 1) * groups + q];
        const float first = static_cast<float>(whole[0] * 256 + whole[1]) * factor - z.x * x.y;
        const float second = static_cast<float>(whole[2] * 256 + whole[3]) * factor - z.y * x.y;
        y[set][0] += s.x * x.x * first;
        y[set][1] += s.y * x.x * second;
      }
    }
  }
};

}  // namespace grinqh::cuda
