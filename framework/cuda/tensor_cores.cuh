// Warp-level parts of attention on tensor cores: operands from shared memory, mma.sync, and the running
// softmax on its accumulators. An accumulator of 16 x 8 holds the columns 2 (lane % 4) and + 1 of rows lane /
// 4 (elements 0, 1) and lane / 4 + 8 (elements 2, 3).
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "cuda/shared_memory.cuh"

namespace grinqh::cuda {

__device__ inline void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ inline void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// c[16, 8] += a[16, 16] b[16, 8].
__device__ inline void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

constexpr float kLog2e = 1.44269504f;

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Of a tile of keys the two rows of this lane see those up to `last`, counted from the tile's first.
template <int kTiles>
__device__ inline void mask_after(float (&s)[kTiles][4], const int (&last)[2], int lane) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (n * 8 + lane % 4 * 2 + i % 2 > last[i / 2]) s[n][i] = -INFINITY;
}

// s becomes 2^(scale (s - greatest)); `shrink` is what sums of earlier tiles are multiplied by. sum: this
// lane's share of a row. Every row has seen a key by the end of the first tile.
template <int kTiles>
__device__ inline void running_softmax(float (&s)[kTiles][4], float scale, float (&greatest)[2],
                                       float (&sum)[2], float (&shrink)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float top = greatest[half];
#pragma unroll
    for (int n = 0; n < kTiles; ++n) top = fmaxf(top, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    shrink[half] = exp2_fast((greatest[half] - top) * scale);
    greatest[half] = top;
    const float shift = top * scale;
    float part = 0;
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        s[n][i] = exp2_fast(fmaf(s[n][i], scale, -shift));
        part += s[n][i];
      }
    sum[half] = sum[half] * shrink[half] + part;
  }
}

}  // namespace grinqh::cuda
