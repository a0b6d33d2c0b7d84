// What all warps need of the inputs, and what they are normalized by.
#pragma once

#include "cuda/gemv_operands.cuh"
#include "kernels/nested/gemv_warp.cuh"

namespace grinqh::cuda::nested {

// Parameters that are read as soon as the inputs are there come to this multiprocessor before.
__device__ inline void touch(const GemvInput& input) {
  asm volatile("" ::"l"(input.x.data), "l"(input.x.stride), "r"(static_cast<int>(input.x.type)),
               "r"(static_cast<int>(input.form)), "l"(input.norm_weight), "f"(input.epsilon)
               : "memory");
}

// 1 / rms of tokens that are to be normalized, else 1. Where there is one token and registers are left, every
// thread has its own.
template <class S>
struct TokenFactors {
  static constexpr bool kOwn = S::kTokens == 1 && !S::kMany;
  float own = 1;
  const float* shared = nullptr;

  __device__ float of(const Problem& p, int token) const {
    if (kOwn || p.input.form != GemvInput::Form::rms_norm) return own;
    return shared[token];
  }
};

// All threads of a block.
template <class S>
__device__ TokenFactors<S> token_factors(const Problem& p, uint8_t* shared) {
  auto* scratch = reinterpret_cast<float*>(shared + BlockMemory<S>::kFactors);
  const auto factor_of = [&](int token) {
    return p.input.x.type == Type::bf16 ? input_factor<__nv_bfloat16>(p.input, p.w.order.in, token, scratch)
                                        : input_factor<float>(p.input, p.w.order.in, token, scratch);
  };
  TokenFactors<S> factors;
  if (p.input.form != GemvInput::Form::rms_norm) return factors;
  if constexpr (TokenFactors<S>::kOwn) {
    factors.own = factor_of(0);
  } else {
    float* of_tokens = scratch + 36;
    for (int t = 0; t < p.tokens; ++t) {
      const float factor = factor_of(t);
      if (threadIdx.x == 0) of_tokens[t] = factor;
    }
    __syncthreads();
    factors.shared = of_tokens;
  }
  return factors;
}

// What inputs of a lane's channels are normalized by; does not wait for the inputs.
template <class S>
struct NormWeights {
  float of[S::kLane];

  __device__ void load(const Problem& p, const Warp<S>& warp, const Unit& unit) {
    if (warp.lane * S::kLane < unit.channels)
      load_norm_weights(p.input, p.w.order.in, unit.first / S::kLane + warp.lane, of);
  }
};

}  // namespace grinqh::cuda::nested
