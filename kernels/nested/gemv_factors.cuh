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

// 1 / rms of tokens that are to be normalized, else 1.
template <class S>
struct TokenFactors {
  // Where a single token's runs have several units, registers are too few to keep it.
  static constexpr bool kOwn = S::kTokens > 1 || !S::kMany;
  float own = 1;  // with several tokens, of token lane / kWarps
  const float* shared = nullptr;

  __device__ float of_single(const Problem& p) const {
    return kOwn || p.input.form != GemvInput::Form::rms_norm ? own : *shared;
  }
  __device__ float of_token(int token) const { return __shfl_sync(0xffffffffu, own, token * S::kWarps); }
};

// Of all tokens at once, as TokenFactors::own. scratch: a float for each token and warp. All threads of a
// block.
template <class S, class T>
__device__ float normalize_tokens(const Problem& p, float* scratch) {
  static_assert(S::kTokens * S::kWarps == 32);
  const int in = p.w.order.in, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float sums[S::kTokens] = {};
  for (int first = threadIdx.x * 8; first < in; first += S::kThreads * 8)
#pragma unroll
    for (int t = 0; t < S::kTokens; ++t) {
      float v[8];
      load8_part(input_row<T>(p.input, min(t, p.tokens - 1)) + first, min(8, in - first), v);
#pragma unroll
      for (int i = 0; i < 8; ++i) sums[t] = fmaf(v[i], v[i], sums[t]);
    }
#pragma unroll
  for (int t = 0; t < S::kTokens; ++t) {
    const float sum = warp_sum(sums[t]);
    if (lane == 0) scratch[t * S::kWarps + warp] = sum;
  }
  __syncthreads();
  float all = scratch[lane];
#pragma unroll
  for (int other = S::kWarps / 2; other > 0; other /= 2) all += __shfl_xor_sync(0xffffffffu, all, other);
  return rsqrtf(all / static_cast<float>(in) + p.input.epsilon);
}

// All threads of a block.
template <class S>
__device__ TokenFactors<S> token_factors(const Problem& p, uint8_t* shared) {
  auto* scratch = reinterpret_cast<float*>(shared + BlockMemory<S>::kFactors);
  TokenFactors<S> factors;
  if (p.input.form != GemvInput::Form::rms_norm) return factors;
  const bool bf16 = p.input.x.type == Type::bf16;
  if constexpr (S::kTokens > 1) {
    factors.own =
        bf16 ? normalize_tokens<S, __nv_bfloat16>(p, scratch) : normalize_tokens<S, float>(p, scratch);
    return factors;
  }
  const float factor = bf16 ? input_factor<__nv_bfloat16>(p.input, p.w.order.in, 0, scratch)
                            : input_factor<float>(p.input, p.w.order.in, 0, scratch);
  if constexpr (TokenFactors<S>::kOwn) {
    factors.own = factor;
  } else {
    if (threadIdx.x == 0) scratch[36] = factor;
    __syncthreads();
    factors.shared = scratch + 36;
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
