// What the kernels of step_attention.h share.
#pragma once

#include "cuda/cluster.cuh"
#include "cuda/step_attention.h"
#include "cuda/typed_elements.cuh"

namespace grinqh::cuda {

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ < 900
// Devices without clusters compile the kernels and never run them.
__device__ inline void arrive_at_cluster() { __trap(); }
__device__ inline void wait_for_arrivals() { __trap(); }
__device__ inline void wait_for_cluster() { __trap(); }
__device__ inline float of_block(const float* place, int) { return *place; }
__device__ inline void put_counted(void*, int, uint2, uint32_t) { __trap(); }
__device__ inline void init_barrier(uint32_t, int) { __trap(); }
__device__ inline void fence_barriers() { __trap(); }
__device__ inline void expect_bytes(uint32_t, int) { __trap(); }
__device__ inline void wait_barrier(uint32_t, uint32_t) { __trap(); }
#endif

constexpr int kMostParts = 8;        // blocks of a cluster that any device takes
constexpr float kLowest = -1.0e30f;  // a running maximum before the first key

// The kernel on tensor cores: false if it does not take the task.
bool step_attention_bf16(const StepAttention& task, int parts, Stream stream);

template <class T>
__device__ float rounded(float x) {
  T value;
  store(x, &value);
  return to_float(value);
}

template <class T>
__device__ const T* element(const ConstView& view, int row, int64_t col) {
  return static_cast<const T*>(view.data) + row * view.stride + col;
}

__device__ inline float load_element(const ConstView& view, int row, int64_t col) {
  return view.type == Type::f32 ? *element<float>(view, row, col)
                                : to_float(*element<__nv_bfloat16>(view, row, col));
}

// A warp normalizes and turns one head of q or k, of up to 64 kMostPairs dimensions.
template <int kMostPairs>
struct Rotation {
  float cosine[kMostPairs], sine[kMostPairs];

  __device__ void prepare(const float* frequencies, int half, int position) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < kMostPairs; ++j)
      if (lane + 32 * j < half)
        sincosf(static_cast<float>(position) * frequencies[lane + 32 * j], &sine[j], &cosine[j]);
  }

  // put(dimension, value) takes the results.
  template <class Put>
  __device__ void turn(const ConstView& x, int row, int64_t col, int half, const float* norm, float epsilon,
                       const Put& put) const {
    const int lane = threadIdx.x % 32;
    float left[kMostPairs] = {}, right[kMostPairs] = {}, squares = 0;
#pragma unroll
    for (int j = 0; j < kMostPairs; ++j) {
      const int d = lane + 32 * j;
      if (d >= half) break;
      left[j] = load_element(x, row, col + d);
      right[j] = load_element(x, row, col + half + d);
      squares += left[j] * left[j] + right[j] * right[j];
    }
    float scale = 1;
    if (norm != nullptr) {
      for (int step = 16; step > 0; step /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, step);
      scale = 1.0f / sqrtf(squares / static_cast<float>(2 * half) + epsilon);
    }
#pragma unroll
    for (int j = 0; j < kMostPairs; ++j) {
      const int d = lane + 32 * j;
      if (d >= half) break;
      if (norm != nullptr) {
        left[j] *= scale * norm[d];
        right[j] *= scale * norm[half + d];
      }
      put(d, left[j] * cosine[j] - right[j] * sine[j]);
      put(half + d, right[j] * cosine[j] + left[j] * sine[j]);
    }
  }
};

__device__ inline void put_mix(const View& out, int64_t at, float value) {
  if (out.type == Type::f32)
    static_cast<float*>(out.data)[at] = value;
  else
    store(value, static_cast<__nv_bfloat16*>(out.data) + at);
}

}  // namespace grinqh::cuda
