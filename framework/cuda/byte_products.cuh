// Products of bytes on the tensor cores, exact (compute capability 8.0).
#pragma once

#include <cstdint>

namespace grinqh::cuda {

// c += a b, a: [16, 32] unsigned, b: [32, 8] signed.
__device__ inline void add_byte_product(int32_t (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                        uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

}  // namespace grinqh::cuda
