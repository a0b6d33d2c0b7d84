// Copies from global to shared memory that pass no register (compute capability 8.0).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace grinqh::cuda {

__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes; zeros if not `valid`, and nothing is read then.
__device__ inline void copy_async_16(uint32_t to, const void* from, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

// Ends a group: the copies of this thread since the last one.
__device__ inline void end_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until at most kPending of this thread's groups, the latest ones, are under way.
template <int kPending>
__device__ inline void await_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
// The same with a number that the compiler does not know, below kMost.
template <int kMost>
__device__ inline void await_copies_but(int pending) {
  if constexpr (kMost <= 1) {
    await_copies<0>();
  } else {
    if (pending >= kMost - 1)
      await_copies<kMost - 1>();
    else
      await_copies_but<kMost - 1>(pending);
  }
}

__device__ inline void prefetch_to_l2(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

}  // namespace grinqh::cuda
