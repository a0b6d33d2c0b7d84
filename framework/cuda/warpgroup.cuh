// Warpgroup-level products of Hopper (wgmma) with operands in shared memory of the 128-byte swizzle: panels
// of rows of 64 bf16, whose 16-byte chunks are permuted by the row's number modulo 8. Accumulators have the
// form of tensor_cores.cuh; warp w of the four holds rows 16 w to 16 w + 15 of 64.
#pragma once

#include <cstdint>

namespace grinqh::cuda {

constexpr uint32_t kPanelRowBytes = 128;

// PTX ISA, "matrix descriptor": addresses and offsets in units of 16 bytes, swizzle mode 1 (128 bytes).
// `leading`: bytes from one panel to the next, where the rows of a panel are the summed index; otherwise
// unused. Eight rows are 1024 bytes.
__device__ inline uint64_t matrix_descriptor(uint32_t address, uint32_t leading) {
  constexpr uint64_t kEightRows = 8 * kPanelRowBytes;
  return uint64_t{(address & 0x3ffffu) >> 4} | uint64_t{leading >> 4} << 16 | kEightRows >> 4 << 32 |
         uint64_t{1} << 62;
}

// Registers written before are seen by the products that follow.
__device__ inline void fence_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ inline void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Shared memory written by threads is seen by the tensor cores; before a barrier.
__device__ inline void fence_shared_for_products() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
// Keeps the compiler from using accumulators before the wait that this follows.
template <int kTiles>
__device__ inline void after_wait(float (&c)[kTiles][4]) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(c[n][i])::"memory");
}

#define GRINQH_TILE(c, n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define GRINQH_TILES_4(c, n) \
  GRINQH_TILE(c, n), GRINQH_TILE(c, n + 1), GRINQH_TILE(c, n + 2), GRINQH_TILE(c, n + 3)
#define GRINQH_TILES_8(c, n) GRINQH_TILES_4(c, n), GRINQH_TILES_4(c, n + 4)

// c[64, 128] = a[64, 16] b[128, 16]^T, or += if `add`. Both in shared memory, the summed index along rows.
__device__ inline void multiply_shared(float (&c)[16][4], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "
      "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "
      "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, "
      "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
      "}, %64, %65, p, 1, 1, 0, 0;\n}\n"
      : GRINQH_TILES_8(c, 0), GRINQH_TILES_8(c, 8)
      : "l"(a), "l"(b), "r"(add));
}

// c[64, 64] of the same form.
__device__ inline void multiply_shared(float (&c)[8][4], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "
      "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, %32, %33, p, 1, 1, 0, 0;\n}\n"
      : GRINQH_TILES_8(c, 0)
      : "l"(a), "l"(b), "r"(add));
}

// c[64, 8 kTiles] += a[64, 16] b[16, 8 kTiles]: a in registers (of mma.sync's form), b in shared memory with
// the summed index down the rows.
__device__ inline void multiply_registers(float (&c)[16][4], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "
      "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "
      "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, "
      "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}\n"
      : GRINQH_TILES_8(c, 0), GRINQH_TILES_8(c, 8)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
}
__device__ inline void multiply_registers(float (&c)[8][4], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "
      "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}\n"
      : GRINQH_TILES_8(c, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
}

#undef GRINQH_TILE
#undef GRINQH_TILES_4
#undef GRINQH_TILES_8

}  // namespace grinqh::cuda
