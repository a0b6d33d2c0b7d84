// Blocks of a cluster that read each other's shared memory. Compute capability 9.0.
#pragma once

#include <cstdint>

namespace grinqh::cuda {

#if __CUDA_ARCH__ >= 900
// All threads of all blocks; what they wrote to shared memory before can be read after.
__device__ inline void wait_for_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// What stands at this place of another block's shared memory. Blocks must not end before others have read.
__device__ inline float of_block(const float* place, int rank) {
  uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(place));
  float value;
  asm volatile("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(address) : "r"(rank));
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
  return value;
}
#endif

}  // namespace grinqh::cuda
