// What a warp copies to its memory without waiting for it: rows of digits, scales and minima.
#pragma once

#include "kernels/nested/gemv_units.cuh"

namespace grinqh::cuda::nested {

// 16 bytes, or as many zeros.
__device__ inline void copy_row(uint32_t to, const uint8_t* from, bool read) {
  asm volatile("cp.async.cg.shared.global.L2::64B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(read ? 16 : 0)
               : "memory");
}
__device__ inline uint32_t load_byte(uint32_t address) {
  uint32_t v;
  asm volatile("ld.shared.u8 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
  return v;
}

// Rows that the inputs will probably ask for, to the second cache: the first plane of the first channels.
__device__ inline void prefetch_likely(const Problem& p, const Warp& warp, int tile) {
  const int bytes = p.w.order.row_bytes(0), size = min(p.likely, warp.count) * bytes;
  if (size <= 0 || warp.lane != 0) return;
  const uint8_t* from = p.w.digits + tile * p.tile_bytes + int64_t{warp.begin} * bytes;
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(size) : "memory");
}

// Scales and minima of a unit, to the buffer of its number.
template <class S>
__device__ void copy_grids(const Problem& p, const Warp& warp, int tile, int unit, int number) {
  const uint32_t to =
      shared_address(warp.memory) + p.plan.grids + (number & (p.plan.buffers - 1)) * p.plan.grid_bytes;
  const int first = warp.begin + unit * p.unit;
  const uint32_t* from = p.w.grids + tile * p.grids_of_tile;
  int bytes = NestedOrder::kTile * 4;
  if constexpr (S::kByInput) {
    from += int64_t{first / p.w.group} * NestedOrder::kTile;
  } else {
    from += int64_t{first} * S::kColumns;
    bytes = (warp.channels(p, unit) + 7) / 8 * 8 * S::kColumns * 4;
  }
#pragma unroll 1
  for (int at = warp.lane * 16; at < bytes; at += 512)
    copy_async(to + at, reinterpret_cast<const uint8_t*>(from) + at, true);
}

}  // namespace grinqh::cuda::nested
