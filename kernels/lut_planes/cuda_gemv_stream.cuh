// How a warp's weights come: bulk copies of the next pieces into a ring of its own in shared memory.
#pragma once

#include "cuda/bulk_copy.cuh"
#include "cuda/shared_memory.cuh"
#include "kernels/lut_planes/cuda_gemv.h"

namespace grinqh::cuda {

constexpr int kPlaneBytes = PlanesOrder::kPlaneBytes, kOutputs = PlanesOrder::kOutputs;

// Shared memory, in this order: offsets and size.
struct PlanesPlan {
  int ring, planes, sums, numbers, outlier_sums, greatest, squares, barriers, bytes;
};
struct PlanesProblem {
  PlanesStream w;
  PlanesLevels levels;
  int col_chunks, depth, piece, tokens;
  int slot_planes;  // that a chunk has room for in the ring
  bool outliers, wide_columns;
  PlanesPlan plan;
  GemvInput input;
  GemvOutput output;
};

#if __CUDA_ARCH__ >= 900
__device__ inline void fetch_to_l2(const void* from, int bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}
__device__ inline int part_of(const PlanesProblem& p, int block) {
  int part = 0;
  while (part + 1 < p.w.part_count && block >= p.w.parts[part + 1].first_block) ++part;
  return part;
}

// Bits of a part's level, four bits a part.
__device__ inline int bits_in(uint32_t levels, int part) { return levels >> 4 * part & 15; }

// A warp's run of chunks through the rows of its block, and the next place in it to fetch.
struct Run {
  int first_block;  // of 16 outputs, of the block of threads
  uint8_t* ring;
  uint32_t ring_at, barriers;
  int slot_bytes, chunk_bytes;
  int row, chunk, left;  // left: chunks

  // Chunks of the next piece: up to the row's end.
  __device__ int count(const PlanesProblem& p) const { return min(min(p.piece, p.col_chunks - chunk), left); }
  __device__ bool more() const { return left > 0; }
  __device__ void advance(const PlanesProblem& p) {
    const int some = count(p);
    chunk += some;
    left -= some;
    if (chunk < p.col_chunks) return;
    chunk = 0;
    ++row;
  }
  __device__ int part(const PlanesProblem& p) const { return part_of(p, first_block + row); }

  // Planes from .. to - 1 of the next piece, into a slot. Not beyond the last.
  __device__ void copy_planes(const PlanesProblem& p, int slot, int from_plane, int to_plane,
                              const PlanesPart& part, int count) const {
    const int64_t at = int64_t{first_block + row - part.first_block} * p.col_chunks + chunk;
    const uint8_t* from = part.chunks + (at * part.planes + from_plane) * kPlaneBytes;
    const uint32_t to = ring_at + slot * slot_bytes + from_plane * kPlaneBytes;
    const int run = (to_plane - from_plane) * kPlaneBytes;
    if (run == chunk_bytes && to_plane == part.planes) {
      copy_bulk(from, to, count * run, barriers + slot * 8);
    } else {
      for (int i = 0; i < count; ++i)
        copy_bulk(from + int64_t{i} * part.planes * kPlaneBytes, to + i * chunk_bytes, run,
                  barriers + slot * 8);
    }
  }
  __device__ void fetch(const PlanesProblem& p, int slot, uint32_t levels) {
    if (!more()) return;
    const int index = part(p), bits = bits_in(levels, index), some = count(p);
    const PlanesPart& part = p.w.parts[index];
    expect_bytes(barriers + slot * 8, some * bits * kPlaneBytes);
    copy_planes(p, slot, 0, bits, part, some);
    if (chunk == 0) {
      const int entries = kOutputs << bits;
      fetch_to_l2(
          part.tables + part.table_offset[bits] + int64_t{first_block + row - part.first_block} * entries,
          entries * 2);
    }
    advance(p);
  }
};
#endif

}  // namespace grinqh::cuda
