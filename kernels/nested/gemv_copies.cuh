// What a warp copies to its memory without waiting for it: rows of digits, scales and minima.
#pragma once

#include "cuda/bulk_copy.cuh"
#include "kernels/nested/gemv_warp.cuh"

namespace grinqh::cuda::nested {

#if __CUDA_ARCH__ >= 900
// 16 bytes, or as many zeros.
__device__ inline void copy_row(uint32_t to, const uint8_t* from, bool read) {
  asm volatile("cp.async.cg.shared.global.L2::64B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(read ? 16 : 0)
               : "memory");
}

// Barriers of a warp: of slots, at which its lanes arrive, and of scales, at which one does.
template <class S>
__device__ inline void init_barriers(const Warp<S>& warp) {
  if (warp.lane == 0) {
#pragma unroll
    for (int slot = 0; slot <= S::kDepth; ++slot) init_barrier(warp.barrier(slot), slot < S::kDepth ? 32 : 1);
    fence_barriers();
  }
  __syncwarp();
}

// Scales and minima of a unit.
template <class S>
__device__ inline void copy_grids(const Problem& p, const Warp<S>& warp, const Unit& unit, int turn) {
  if (warp.lane != 0) return;
  const uint32_t* from = p.w.grids + unit.tile * p.grids_of_tile;
  int bytes = NestedOrder::kTile * 4;
  if constexpr (S::kByInput) {
    from += int64_t{unit.first / p.w.group} * NestedOrder::kTile;
  } else {
    from += int64_t{unit.first} * S::kColumns;
    bytes = (unit.channels + 7) / 8 * 8 * S::kColumns * 4;
  }
  expect_bytes(warp.grids_barrier(), bytes);
  copy_bulk(from, shared_address(warp.grids(turn)), bytes, warp.grids_barrier());
}
#endif

}  // namespace grinqh::cuda::nested
