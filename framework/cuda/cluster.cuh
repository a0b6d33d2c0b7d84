// Blocks of a cluster that read each other's shared memory. Compute capability 9.0.
#pragma once

#include <cstdint>

#include "cuda/shared_memory.cuh"

namespace grinqh::cuda {

#if __CUDA_ARCH__ >= 900
// All threads of all blocks; what they wrote to shared memory before arriving can be read after the wait.
__device__ inline void arrive_at_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ inline void wait_for_arrivals() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ inline void wait_for_cluster() {
  arrive_at_cluster();
  wait_for_arrivals();
}
// The same where threads of a warp may have parted.
__device__ inline void arrive_apart() { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
__device__ inline void wait_apart() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }

// Of this block.
__device__ inline int rank_in_cluster() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}

__device__ inline int cluster_number() {
  uint32_t number;
  asm("mov.u32 %0, %%clusterid.x;" : "=r"(number));
  return static_cast<int>(number);
}

// What stands at this place of another block's shared memory. Blocks must not end before others have read.
__device__ inline float of_block(const float* place, int rank) {
  uint32_t address = shared_address(place);
  float value;
  asm volatile("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(address) : "r"(rank));
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
  return value;
}

// To the same place of another block's shared memory, or of this one's. The block must have begun, and wait
// for the cluster before it reads.
__device__ inline void put_in_block(float* place, int rank, float value) {
  uint32_t address = shared_address(place);
  asm volatile("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(address) : "r"(rank));
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}
// The same, and then the eight bytes count at the other block's barrier (bulk_copy.cuh), for which it can
// wait instead.
__device__ inline void put_counted(void* place, int rank, uint2 value, uint32_t barrier) {
  uint32_t address = shared_address(place);
  asm volatile("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(address) : "r"(rank));
  asm volatile("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(barrier) : "r"(rank));
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.u32 [%0], {%1, %2}, [%3];" ::"r"(address),
      "r"(value.x), "r"(value.y), "r"(barrier)
      : "memory");
}
#endif

}  // namespace grinqh::cuda
