// What the layouts' kernels share: codes at any bit of a buffer, and rows of weights in either type.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/types.h"

namespace grinqh::cuda {

inline constexpr int kChunk = 8;  // neighbouring weights of a row that a thread stores together

__device__ inline float float_of_half(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }

// 2^23 + value by its bits, for an integer below 2^23: differences of such floats are exact, and cheaper than
// conversions.
inline constexpr float kShift = 8388608.0f;
__device__ inline float shifted_float(uint32_t value) { return __uint_as_float(0x4b000000u | value); }
__device__ inline float float_of_small(uint32_t value) { return shifted_float(value) - kShift; }

// `count` <= 64 bits from bit `bit` on, the first lowest; bits above them are arbitrary. The buffer begins at
// a multiple of 4 bytes and may be read up to 12 bytes beyond its last.
__device__ inline uint64_t load_bits(const uint8_t* buffer, int64_t bit, int count) {
  const auto* words = reinterpret_cast<const uint32_t*>(buffer) + bit / 32;
  const int shift = static_cast<int>(bit % 32);
  const uint32_t first = words[0], second = words[1];
  const uint32_t third = shift + count > 64 ? words[2] : 0;
  return static_cast<uint64_t>(__funnelshift_r(second, third, shift)) << 32 |
         __funnelshift_r(first, second, shift);
}

// The view that a kernel writes.
template <class T>
struct Rows {
  T* data;
  int64_t rows, cols, stride;
  bool aligned;  // every row begins at a multiple of 16 bytes
};

template <class T>
Rows<T> rows_of(const View& view) {
  const bool aligned = reinterpret_cast<uintptr_t>(view.data) % 16 == 0 &&
                       view.stride * static_cast<int64_t>(sizeof(T)) % 16 == 0;
  return {static_cast<T*>(view.data), view.rows, view.cols, view.stride, aligned};
}

__device__ inline void store(float* to, float value) { *to = value; }
__device__ inline void store(__nv_bfloat16* to, float value) { *to = __float2bfloat16_rn(value); }

__device__ inline void store_whole(float* to, const float (&values)[kChunk]) {
  auto* vectors = reinterpret_cast<float4*>(to);
  vectors[0] = make_float4(values[0], values[1], values[2], values[3]);
  vectors[1] = make_float4(values[4], values[5], values[6], values[7]);
}

__device__ inline void store_whole(__nv_bfloat16* to, const float (&values)[kChunk]) {
  __nv_bfloat162 pairs[kChunk / 2];
#pragma unroll
  for (int i = 0; i < kChunk / 2; ++i) pairs[i] = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
  *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(pairs);
}

// Weights (row, col) to (row, col + 7), of which those within the matrix are stored; col: a multiple of 8.
template <class T>
__device__ void store_chunk(const Rows<T>& out, int64_t row, int64_t col, const float (&values)[kChunk]) {
  T* to = out.data + row * out.stride + col;
  if (out.aligned && col + kChunk <= out.cols) return store_whole(to, values);
#pragma unroll
  for (int i = 0; i < kChunk; ++i)
    if (col + i < out.cols) store(to + i, values[i]);
}

// run(Rows<T>) with the view's type.
template <class Run>
void with_rows(const View& view, Run run) {
  if (view.type == Type::f32)
    run(rows_of<float>(view));
  else
    run(rows_of<__nv_bfloat16>(view));
}

}  // namespace grinqh::cuda
