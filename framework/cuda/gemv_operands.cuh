// How kernels read a GemvInput and write a GemvOutput.
#pragma once

#include "cuda/gemv_operands.h"
#include "cuda/typed_elements.cuh"

namespace grinqh::cuda {

template <class T>
__device__ const T* input_row(const GemvInput& input, int token) {
  return static_cast<const T*>(input.x.data) + token * input.x.stride;
}

// Before the inputs are there: weights that they are normalized by, to the second cache, out of which a
// step's other weights have pushed them. Blocks bring a part each.
__device__ inline void bring_norm_weights(const GemvInput& input, int64_t in) {
  constexpr int kLine = 32;  // floats
  if (input.form != GemvInput::Form::rms_norm || threadIdx.x != 0) return;
  for (int64_t at = int64_t{blockIdx.x} * kLine; at < in; at += int64_t{gridDim.x} * kLine)
    asm volatile("prefetch.global.L2 [%0];" ::"l"(input.norm_weight + at) : "memory");
}

// What load_inputs() multiplies by: of a normalized token 1 / rms, else 1. For all threads of a block;
// scratch: 33 floats of shared memory, free again after the block's next barrier; tokens one after the other.
template <class T>
__device__ float input_factor(const GemvInput& input, int in, int token, float* scratch) {
  if (input.form != GemvInput::Form::rms_norm) return 1.0f;
  const T* x = input_row<T>(input, token);
  float sum = 0;
  for (int first = threadIdx.x * 8; first < in; first += blockDim.x * 8) {
    float v[8];
    load8_part(x + first, min(8, in - first), v);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum = fmaf(v[i], v[i], sum);
  }
  for (int other = 16; other > 0; other /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);
  if (token > 0) __syncthreads();  // the last token's factor has been read
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = sum;
  __syncthreads();
  // Every warp sums for itself, all in the same order.
  float all = threadIdx.x % 32 < blockDim.x / 32 ? scratch[threadIdx.x % 32] : 0.0f;
  for (int other = 16; other > 0; other /= 2) all += __shfl_xor_sync(0xffffffffu, all, other);
  return rsqrtf(all / static_cast<float>(in) + input.epsilon);
}

__device__ inline float gated(float gate, float up) { return __fdividef(gate, 1.0f + __expf(-gate)) * up; }

// What inputs kCount item .. kCount (item + 1) - 1 are normalized by, if they are.
template <int kCount>
__device__ void load_norm_weights(const GemvInput& input, int in, int item, float (&weight)[kCount]) {
  const int first = item * kCount;
  if (input.form == GemvInput::Form::rms_norm)
    load_part(input.norm_weight + first, max(0, min(kCount, in - first)), weight);
}

// What all kinds of loading do. Of a token that is to be normalized: take_weights(weights) gives its weights,
// called there and not before, as they would take registers where nothing is normalized; normalize(value,
// weight) makes an input.
template <class T, int kCount, class TakeWeights, class Normalize>
__device__ void load_formed(const GemvInput& input, int in, int token, int item, float (&v)[kCount],
                            const TakeWeights& take_weights, const Normalize& normalize) {
  const int first = item * kCount, valid = max(0, min(kCount, in - first));
  const T* x = input_row<T>(input, token);
  load_part(x + first, valid, v);
  if (input.form == GemvInput::Form::rms_norm) {
    float weight[kCount];
    take_weights(weight);
#pragma unroll
    for (int i = 0; i < kCount; ++i) normalize(v[i], weight[i]);
  } else if (input.form == GemvInput::Form::swiglu) {
    float up[kCount];
    load_part(x + in + first, valid, up);
#pragma unroll
    for (int i = 0; i < kCount; ++i) v[i] = gated(v[i], up[i]);
  }
}

// Inputs kCount item .. kCount (item + 1) - 1 of a token, four or eight; zeros from `in` on. factor:
// input_factor()'s of the token; weight: load_norm_weights()'s, which do not wait for the inputs.
template <class T, int kCount>
__device__ void load_inputs(const GemvInput& input, int in, int token, int item, float factor,
                            const float (&weight)[kCount], float (&v)[kCount]) {
  const auto take = [&](float(&weights)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) weights[i] = weight[i];
  };
  load_formed<T>(input, in, token, item, v, take, [&](float& value, float by) { value *= factor * by; });
}
template <class T, int kCount>
__device__ void load_inputs(const GemvInput& input, int in, int token, int item, float factor,
                            float (&v)[kCount]) {
  const auto take = [&](float(&weights)[kCount]) { load_norm_weights(input, in, item, weights); };
  load_formed<T>(input, in, token, item, v, take, [&](float& value, float by) { value *= factor * by; });
}

// The same of what a normalized token's factor is not in yet: it can multiply the products instead, and then
// nothing waits for the sum over the token. square: grows by what that sum needs.
template <class T>
__device__ void load_unscaled_inputs(const GemvInput& input, int in, int token, int item, float (&v)[8],
                                     float& square) {
  const auto take = [&](float(&weights)[8]) { load_norm_weights(input, in, item, weights); };
  load_formed<T>(input, in, token, item, v, take, [&](float& value, float by) {
    square = fmaf(value, value, square);
    value *= by;
  });
}

// squares: [warps of the block], of a token that is still to be normalized; read after the block's next
// barrier.
__device__ inline void store_squares(const GemvInput& input, float square, float* squares) {
  if (input.form != GemvInput::Form::rms_norm) return;
  for (int other = 16; other > 0; other /= 2) square += __shfl_xor_sync(0xffffffffu, square, other);
  if (threadIdx.x % 32 == 0) squares[threadIdx.x / 32] = square;
}

__device__ inline float sum_of_squares(const GemvInput& input, const float* squares) {
  float sum = 0;
  if (input.form == GemvInput::Form::rms_norm)
    for (int w = 0; w < static_cast<int>(blockDim.x) / 32; ++w) sum += squares[w];
  return sum;
}

// What products of unscaled inputs are multiplied by.
__device__ inline float factor_of_square(const GemvInput& input, int64_t in, float square) {
  if (input.form != GemvInput::Form::rms_norm) return 1.0f;
  return rsqrtf(square / static_cast<float>(in) + input.epsilon);
}
__device__ inline float output_factor(const GemvInput& input, int64_t in, const float* squares) {
  return factor_of_square(input, in, sum_of_squares(input, squares));
}

__device__ inline void put_output(const GemvOutput& output, int token, int64_t n, float value) {
  if (output.bias != nullptr) value += output.bias[n];
  const auto put = [&](auto* row) {
    if (output.add) value += to_float(row[n]);
    store(value, row + n);
  };
  if (output.y.type == Type::bf16)
    put(static_cast<__nv_bfloat16*>(output.y.data) + token * output.y.stride);
  else
    put(static_cast<float*>(output.y.data) + token * output.y.stride);
}

}  // namespace grinqh::cuda
