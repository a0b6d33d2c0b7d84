// Products of bytes with exact integer sums on the tensor cores (compute capability 8.0), and bytes brought
// into the order that they want.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace grinqh::cuda {

// c += a b with a: [16, 32] unsigned, b: [32, 8] signed. Of lane 4 r + q: a[0], a[1] rows r and r + 8 of
// columns 4 q .. 4 q + 3, a[2], a[3] the same of columns 16 + 4 q ..; b.x, b.y column r of the same rows;
// c[0], c[1] columns 2 q, 2 q + 1 of row r, c[2], c[3] of row r + 8.
__device__ inline void add_product(int32_t (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                   uint2 b) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b.x), "r"(b.y));
}

// Byte b of word i goes to byte i of word b.
__device__ inline void transpose_bytes(uint32_t (&w)[4]) {
  const uint32_t low01 = __byte_perm(w[0], w[1], 0x5140), low23 = __byte_perm(w[2], w[3], 0x5140);
  const uint32_t high01 = __byte_perm(w[0], w[1], 0x7362), high23 = __byte_perm(w[2], w[3], 0x7362);
  w[0] = __byte_perm(low01, low23, 0x5410);
  w[1] = __byte_perm(low01, low23, 0x7632);
  w[2] = __byte_perm(high01, high23, 0x5410);
  w[3] = __byte_perm(high01, high23, 0x7632);
}

}  // namespace grinqh::cuda
