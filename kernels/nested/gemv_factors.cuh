// What all warps need of the inputs.
#pragma once

#include "cuda/gemv_operands.cuh"
#include "kernels/nested/gemv_plan.cuh"

namespace grinqh::cuda::nested {

// Parameters that are read as soon as the inputs are there come to this multiprocessor before.
__device__ inline void touch(const GemvInput& input) {
  asm volatile("" ::"l"(input.x.data), "l"(input.x.stride), "r"(static_cast<int>(input.x.type)),
               "r"(static_cast<int>(input.form)), "l"(input.norm_weight), "f"(input.epsilon)
               : "memory");
}

// 1 / rms of tokens that are to be normalized. All threads.
template <class S>
__device__ const float* input_factors(const Problem& p, uint8_t* shared) {
  auto* scratch = reinterpret_cast<float*>(shared + BlockMemory<S>::kFactors);
  if (p.input.form != GemvInput::Form::rms_norm) return scratch;
  float* of_tokens = scratch + 36;
  for (int t = 0; t < p.tokens; ++t) {
    const float factor = p.input.x.type == Type::bf16
                             ? input_factor<__nv_bfloat16>(p.input, p.w.order.in, t, scratch)
                             : input_factor<float>(p.input, p.w.order.in, t, scratch);
    if (threadIdx.x == 0) of_tokens[t] = factor;
  }
  __syncthreads();
  return of_tokens;
}

}  // namespace grinqh::cuda::nested
