// A warp's ring: rows of a slot fetched, and multiplied on the tensor cores where they lie.
#pragma once

#include "cuda/byte_products.cuh"
#include "cuda/tensor_cores.cuh"
#include "kernels/nested/gemv_plan.cuh"

namespace grinqh::cuda::nested {

__device__ inline uint2 load_pair(uint32_t address) {
  uint2 v;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(address) : "memory");
  return v;
}

// 16 bytes, or as many zeros.
__device__ inline void copy_row(uint32_t to, const uint8_t* from, bool read) {
  asm volatile("cp.async.cg.shared.global.L2::64B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(read ? 16 : 0)
               : "memory");
}

// What is on its way into a warp's ring.
struct Flow {
  const uint8_t* tile = nullptr;  // of the weights, where slots are fetched from
  uint32_t entry = 0;             // of the next slot to fetch
  int left = 0, in_flight = 0;    // slots to fetch, slots fetched and not yet used
  uint32_t place = 0;             // in the ring, of the next
};

// Where a lane copies to and from: of rows of 2-bit digits a chunk of row lane / 2 and of row 16 + lane / 2,
// of 1-bit digits a row. A row's two chunks are exchanged in every other four rows, so that eight rows'
// chunks lie in different banks.
struct LaneCopies {
  uint32_t row, to, from;  // bit of a mask; bytes in a slot, bytes in the rows of a slot
  uint32_t single_row, single_to, single_from;
  uint32_t below;  // from row r to row r + 16

  __device__ LaneCopies(int lane, int across)
      : row(1u << lane / 2),
        to(lane / 2 * 32 + (lane % 2 ^ lane / 8 % 2) * 16),
        from(lane / 2 * across * 32 + lane % 2 * 16),
        single_row(1u << lane),
        single_to(lane * 16),
        single_from(lane * across * 16),
        below(across * 512) {}
};

// tile: of the weights.
__device__ inline void fetch(const uint2& slot, const LaneCopies& copies, const uint8_t* tile, uint32_t to) {
  const bool single = static_cast<int>(slot.x) < 0;
  const uint8_t* rows = tile + int64_t{slot.x & 0xffffffu} * 16 + (single ? copies.single_from : copies.from);
  to += single ? copies.single_to : copies.to;
  copy_row(to, rows, (slot.y & (single ? copies.single_row : copies.row)) != 0);
  if (!single) copy_row(to + 512, rows + copies.below, (slot.y & copies.row << 16) != 0);
}

// Sums of 128 outputs. of[4 b + d][2 h + ..] has digits 0 .. d of byte b in half h, digit e 4^e fold: a mask
// that keeps the lower digits is one instruction less for the whole byte, and differences are exact.
struct Sums {
  int32_t of[8][4];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int k = 0; k < 4; ++k) of[i][k] = 0;
  }
  // What was summed is worth 2^bits more than what follows.
  __device__ void raise(int bits) {
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int k = 0; k < 4; ++k) of[i][k] <<= bits;
  }
};

// at: of the lane's row of 2-bit digits, its first half.
__device__ inline void multiply_pairs(uint32_t at, const uint2& b, Sums& sums) {
  uint32_t near[4], far[4];  // half 0 and half 1 of rows 8 o + 2 t, + 1
  load_matrices_transposed(near, at);
  load_matrices_transposed(far, at ^ 16);
#pragma unroll
  for (int byte = 0; byte < 2; ++byte) {
    const uint32_t take = byte == 0 ? 0x6420 : 0x7531;
    const uint32_t near0 = __byte_perm(near[0], near[1], take), near1 = __byte_perm(near[2], near[3], take);
    const uint32_t far0 = __byte_perm(far[0], far[1], take), far1 = __byte_perm(far[2], far[3], take);
#pragma unroll
    for (int d = 0; d < 4; ++d) {
      const uint32_t mask = d == 3 ? 0xffffffffu : ((1u << 2 * (d + 1)) - 1) * 0x01010101u;
      add_byte_product(sums.of[byte * 4 + d], near0 & mask, far0 & mask, near1 & mask, far1 & mask, b.x, b.y);
    }
  }
}

__device__ inline void multiply_singles(uint32_t at, const uint2& b, Sums& sums) {
  uint32_t r[4];
  load_matrices_transposed(r, at);
#pragma unroll
  for (int byte = 0; byte < 2; ++byte) {
    const uint32_t take = byte == 0 ? 0x6420 : 0x7531;
    const uint32_t first = __byte_perm(r[0], r[1], take), second = __byte_perm(r[2], r[3], take);
#pragma unroll
    for (int d = 0; d < 4; ++d) {
      const uint32_t mask = (0x55u & ((1u << 2 * (d + 1)) - 1)) * 0x01010101u;
      add_byte_product(sums.of[byte * 4 + d], first & mask, first >> 1 & mask, second & mask,
                       second >> 1 & mask, b.x, b.y);
    }
  }
}

}  // namespace grinqh::cuda::nested
