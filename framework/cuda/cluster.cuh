// Clusters of blocks: barriers, and reading each other's shared memory. Compute capability 9.0 and later.
#pragma once

#include <cstdint>

namespace grinqh::cuda {

// All threads of the cluster; what they wrote to shared memory before, the others see after.
__device__ inline void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
#endif
}

// The float at this place of the shared memory of block `rank` of the cluster.
__device__ inline float read_cluster(const float* shared, int rank) {
  float value = 0;
#if __CUDA_ARCH__ >= 900
  const auto here = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(rank));
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(there) : "memory");
#else
  (void)shared;
  (void)rank;
#endif
  return value;
}

}  // namespace grinqh::cuda
