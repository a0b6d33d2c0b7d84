#include "cuda/backward.h"

#include "cuda/typed_elements.cuh"

namespace grinqh::cuda {

namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

constexpr int kRowThreads = 256;

// The sum over kThreads threads that share a segment: part of a warp, or the whole block. Every one gets it.
template <int kThreads>
__device__ float2 segment_sum(float2 value) {
  constexpr int kLanes = kThreads < 32 ? kThreads : 32;
  const unsigned lanes = 0xffffffffu >> (32 - kLanes) << (threadIdx.x % 32 / kLanes * kLanes);
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    value.x += __shfl_xor_sync(lanes, value.x, offset);
    value.y += __shfl_xor_sync(lanes, value.y, offset);
  }
  if constexpr (kThreads <= 32) return value;
  __shared__ float2 warps[kRowThreads / 32];
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  float2 sum = {0, 0};
  for (const float2& part : warps) {
    sum.x += part.x;
    sum.y += part.y;
  }
  return sum;
}

// Rows of x and d hold `per_row` segments of `size` elements, each normalized by itself; kThreads threads
// have one. y = x r o weight with r = 1 / sqrt(mean(x^2) + eps): dx = r (dy o weight) - x r^3 mean(dy o
// weight o x).
template <int kThreads, class X, class D>
__global__ void __launch_bounds__(kRowThreads)
    norm_backward_kernel(const X* x, int64_t x_stride, const float* weight, float eps, D* d, int64_t d_stride,
                         int64_t segments, int per_row, int64_t size) {
  const int64_t segment =
      static_cast<int64_t>(blockIdx.x) * (kRowThreads / kThreads) + threadIdx.x / kThreads;
  if (segment >= segments) return;
  const int64_t row = segment / per_row, offset = segment % per_row * size;
  x += row * x_stride + offset;
  d += row * d_stride + offset;

  float values[8], gradient[8], scale[8];
  const auto load = [&](int64_t i) {
    const int valid = static_cast<int>(min(size - i, int64_t{8}));
    load8_part(x + i, valid, values);
    load8_part(d + i, valid, gradient);
    if (!weight) return valid;
    load8_part(weight + i, valid, scale);
    for (int k = 0; k < 8; ++k) gradient[k] *= scale[k];
    return valid;
  };
  constexpr int64_t kStep = kThreads * 8;
  const int64_t first = threadIdx.x % kThreads * 8;
  float2 sum = {0, 0};  // of x^2, of dy o weight o x
  for (int64_t i = first; i < size; i += kStep) {
    load(i);
    for (int k = 0; k < 8; ++k) {
      sum.x += values[k] * values[k];
      sum.y += gradient[k] * values[k];
    }
  }
  sum = segment_sum<kThreads>(sum);
  const float share = 1.0f / static_cast<float>(size);
  const float r = 1.0f / sqrtf(sum.x * share + eps);
  const float shift = r * r * r * sum.y * share;
  for (int64_t i = first; i < size; i += kStep) {
    const int valid = load(i);
    for (int k = 0; k < 8; ++k) gradient[k] = r * gradient[k] - shift * values[k];
    store8_part(gradient, valid, d + i);
  }
}

template <int kThreads>
void norm_backward(ConstView x, const float* weight, int64_t size, float eps, View d, Stream stream) {
  if (x.rows == 0 || x.cols == 0) return;
  const int64_t per_row = x.cols / size, segments = x.rows * per_row;
  const auto blocks = static_cast<unsigned>(ceil_div(segments, kRowThreads / kThreads));
  with_type(x.type, [&](auto x_element) {
    with_type(d.type, [&](auto d_element) {
      using X = decltype(x_element);
      using D = decltype(d_element);
      norm_backward_kernel<kThreads><<<blocks, kRowThreads, 0, stream>>>(
          static_cast<const X*>(x.data), x.stride, weight, eps, static_cast<D*>(d.data), d.stride, segments,
          static_cast<int>(per_row), size);
    });
  });
  check_launch("norm_backward", stream);
}

// silu(g) = g s with s = sigmoid(g); its derivative is s (1 + g (1 - s)). A block has 2048 columns of a row.
template <class T, class D>
__global__ void __launch_bounds__(kRowThreads)
    silu_multiply_backward_kernel(T* gate, int64_t gate_stride, T* up, int64_t up_stride, const D* d,
                                  int64_t d_stride, int64_t cols) {
  const int64_t row = blockIdx.x, i = (static_cast<int64_t>(blockIdx.y) * kRowThreads + threadIdx.x) * 8;
  if (i >= cols) return;
  const int valid = static_cast<int>(min(cols - i, int64_t{8}));
  gate += row * gate_stride + i;
  up += row * up_stride + i;
  float g[8], u[8], out[8];
  load8_part(gate, valid, g);
  load8_part(up, valid, u);
  load8_part(d + row * d_stride + i, valid, out);
  for (int k = 0; k < 8; ++k) {
    const float sigmoid = 1.0f / (1.0f + expf(-g[k]));
    const float slope = sigmoid * (g[k] * (1.0f - sigmoid) + 1.0f);
    const float activation = g[k] * sigmoid;
    g[k] = out[k] * u[k] * slope;
    u[k] = out[k] * activation;
  }
  store8_part(g, valid, gate);
  store8_part(u, valid, up);
}

}  // namespace

void rms_norm_backward(ConstView x, const float* weight, float eps, View d, Stream stream) {
  norm_backward<kRowThreads>(x, weight, x.cols, eps, d, stream);
}

void rms_norm_heads_backward(ConstView x, const float* weight, int64_t head_dim, float eps, View d,
                             Stream stream) {
  if (head_dim <= 64)
    norm_backward<8>(x, weight, head_dim, eps, d, stream);
  else if (head_dim <= 128)
    norm_backward<16>(x, weight, head_dim, eps, d, stream);
  else
    norm_backward<32>(x, weight, head_dim, eps, d, stream);
}

void silu_multiply_backward(View gate, View up, ConstView d, Stream stream) {
  if (gate.rows == 0 || gate.cols == 0) return;
  const dim3 grid(static_cast<unsigned>(gate.rows),
                  static_cast<unsigned>(ceil_div(gate.cols, kRowThreads * 8)));
  with_type(gate.type, [&](auto element) {
    with_type(d.type, [&](auto d_element) {
      using T = decltype(element);
      using D = decltype(d_element);
      silu_multiply_backward_kernel<<<grid, kRowThreads, 0, stream>>>(
          static_cast<T*>(gate.data), gate.stride, static_cast<T*>(up.data), up.stride,
          static_cast<const D*>(d.data), d.stride, gate.cols);
    });
  });
  check_launch("silu_multiply_backward", stream);
}

}  // namespace grinqh::cuda
