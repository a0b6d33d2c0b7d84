// Sums of inputs by code, on the tensor cores: an output's weights take few values, so that y is the sum over
// codes c of table[c] times the sum of the inputs whose weight has code c. Which weights those are is a
// combination of the planes' bits, one logic instruction for 32 weights; a binary product (AND, count) with
// the bit planes of the inputs counts them for each bit. All sums are exact integers, and no weight is ever
// looked up.
#pragma once

#include "cuda/decode.cuh"
#include "kernels/lut_planes/gemv_order.h"

namespace grinqh::cuda {

// c[16, 8] += the bits that a[16, 256] and b[256, 8] have in common.
__device__ inline void count_common(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 900
  asm("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// A pass takes up to sixteen codes, those that have their first bits in common.
template <int kBits>
struct CodeSums {
  static constexpr int kLast = kBits < 4 ? kBits : 4;  // bits that tell a pass's codes apart
  static constexpr int kCodes = 1 << kLast;
  static constexpr int kPasses = 1 << (kBits - kLast);
  // Of them, those that the others are combined with.
  static constexpr int kOuter = kLast > 2 ? kLast - 2 : 0, kInner = kLast - kOuter;

  // What a table says of a pass's codes, for outputs g and g + 8 of a lane.
  struct Entries {
    uint32_t pairs[2][kCodes / 2];

    // tables: of 16 outputs
    __device__ void load(const uint16_t* tables, int lane, int pass) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint16_t* from = tables + ((lane / 4 + half * 8) << kBits) + pass * kCodes;
        if constexpr (kCodes == 2) {
          pairs[half][0] = __ldg(reinterpret_cast<const uint32_t*>(from));
        } else if constexpr (kCodes == 4) {
          const uint2 two = __ldg(reinterpret_cast<const uint2*>(from));
          pairs[half][0] = two.x;
          pairs[half][1] = two.y;
        } else {
#pragma unroll
          for (int i = 0; i < kCodes / 8; ++i) {
            const uint4 four = __ldg(reinterpret_cast<const uint4*>(from) + i);
            pairs[half][4 * i] = four.x;
            pairs[half][4 * i + 1] = four.y;
            pairs[half][4 * i + 2] = four.z;
            pairs[half][4 * i + 3] = four.w;
          }
        }
      }
    }
  };

  static constexpr float kZero = 12582912.0f;  // 1.5 2^23, whose bits sums begin at: conversion is for free

  int counts[kCodes][2][4];

  __device__ void clear() {
#pragma unroll
    for (int c = 0; c < kCodes; ++c)
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int i = 0; i < 4; ++i) counts[c][h][i] = h == 0 && i % 2 == 0 ? __float_as_int(kZero) : 0;
  }

  // weights: a chunk's words of this lane; inputs: a chunk's, likewise.
  __device__ void add(const uint8_t* weights, const uint8_t* inputs, int pass) {
    const auto plane = [&](int j) {
      return *reinterpret_cast<const uint4*>(weights + j * PlanesOrder::kPlaneBytes);
    };
    const uint4 x = *reinterpret_cast<const uint4*>(inputs);
    uint32_t begins[4] = {~0u, ~0u, ~0u, ~0u};  // weights whose code begins with the pass's bits
#pragma unroll
    for (int j = 0; j < kBits - kLast; ++j) {
      const uint32_t flip = pass >> (kBits - kLast - 1 - j) & 1 ? 0u : ~0u;
      const uint4 p = plane(j);
      begins[0] &= p.x ^ flip;
      begins[1] &= p.y ^ flip;
      begins[2] &= p.z ^ flip;
      begins[3] &= p.w ^ flip;
    }
    uint32_t last[kLast][4];
#pragma unroll
    for (int j = 0; j < kLast; ++j) {
      const uint4 p = plane(kBits - kLast + j);
      last[j][0] = p.x;
      last[j][1] = p.y;
      last[j][2] = p.z;
      last[j][3] = p.w;
    }
    // Of plane j, the weights with this bit.
    const auto with = [&](int j, int i, int bit) { return bit ? last[j][i] : ~last[j][i]; };
#pragma unroll
    for (int outer = 0; outer < 1 << kOuter; ++outer) {
      uint32_t some[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        some[i] = begins[i];
#pragma unroll
        for (int j = 0; j < kOuter; ++j) some[i] &= with(j, i, outer >> (kOuter - 1 - j) & 1);
      }
#pragma unroll
      for (int inner = 0; inner < 1 << kInner; ++inner) {
        uint32_t have[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          have[i] = some[i];
#pragma unroll
          for (int j = 0; j < kInner; ++j) have[i] &= with(kOuter + j, i, inner >> (kInner - 1 - j) & 1);
        }
        int(&sums)[2][4] = counts[outer << kInner | inner];
        count_common(sums[0], have, x.x, x.y);
        count_common(sums[1], have, x.z, x.w);
      }
    }
  }

  // y += table[c] * (this lane's four bits of the sums of c), in units of 16^(lane % 4). The highest bit of
  // an input counts negative. There are few enough
  // chunks that sums of four bits stay below 2^22.
  __device__ void fold(const Entries& table, int lane, float (&y)[2]) const {
    const int highest = lane % 4 == 3 ? -8 : 8;
#pragma unroll
    for (int c = 0; c < kCodes; ++c)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int *low = counts[c][0] + half * 2, *high = counts[c][1] + half * 2;
        const int sum = low[0] + low[1] * 2 + high[0] * 4 + high[1] * highest;
        const uint32_t pair = table.pairs[half][c / 2];
        const float entry = float_of_half(static_cast<uint16_t>(c % 2 ? pair >> 16 : pair & 0xffffu));
        y[half] = fmaf(entry, __int_as_float(sum) - kZero, y[half]);
      }
  }
};

}  // namespace grinqh::cuda
