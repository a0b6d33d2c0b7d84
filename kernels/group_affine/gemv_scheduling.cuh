// Where the compiler must leave things: what it puts between the inputs' arrival and the first product is
// waited for in every launch.
#pragma once

#include "cuda/gemv_operands.h"

namespace grinqh::cuda {

// threadIdx.x, of a block of kThreads. Registers are few: what can be read again is, and each time waited
// for.
template <int kThreads>
__device__ int thread_below() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  __builtin_assume(thread >= 0 && thread < kThreads);
  return thread;
}

// What is calculated of the value stays behind what comes before this.
__device__ inline int not_before(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

// Parameters that are read at the end come to this multiprocessor before there is anything to do.
__device__ inline void touch(const GemvOutput& output) {
  asm volatile("" ::"l"(output.y.data), "r"(static_cast<int>(output.add)) : "memory");
}

}  // namespace grinqh::cuda
