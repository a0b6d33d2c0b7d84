// Eight elements of a row at a time, in 16-byte accesses, whatever their type: what the kernels that stream
// through matrices share. The type is a run-time value: its branch is the same for all threads and costs
// nothing beside the memory, and one kernel serves all combinations of types.
#pragma once

#include <cuda_bf16.h>

#include <algorithm>

#include "cuda/types.h"

namespace grinqh::cuda {

constexpr int kChunk = 8;

// Raw bits: f32 elements 0-3 in low and 4-7 in high, bf16 elements 0-7 in low. Loading and converting are
// apart so that several loads are in flight before the first is waited for.
struct Chunk {
  uint4 low, high;
};

__device__ inline float bf16_low(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float bf16_high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
__device__ inline uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

template <class V>
__device__ inline char* row_of(const V& view, int64_t row) {
  const int64_t size = view.type == Type::f32 ? 4 : 2;
  return static_cast<char*>(const_cast<void*>(view.data)) + row * view.stride * size;
}

// Elements [col, col + 8) of a row, zero from col + count on. `aligned`: the row begins at 16 bytes.
__device__ inline Chunk load_chunk(const char* row, Type type, int64_t col, int64_t count, bool aligned) {
  if (type == Type::f32) {
    const char* p = row + col * 4;
    if (aligned && count >= kChunk)
      return {reinterpret_cast<const uint4*>(p)[0], reinterpret_cast<const uint4*>(p)[1]};
    uint32_t w[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) w[i] = i < count ? reinterpret_cast<const uint32_t*>(p)[i] : 0u;
    return {{w[0], w[1], w[2], w[3]}, {w[4], w[5], w[6], w[7]}};
  }
  const char* p = row + col * 2;
  if (aligned && count >= kChunk) return {*reinterpret_cast<const uint4*>(p), {}};
  uint32_t w[kChunk];
#pragma unroll
  for (int i = 0; i < kChunk; ++i) w[i] = i < count ? reinterpret_cast<const uint16_t*>(p)[i] : 0u;
  return {{w[0] | w[1] << 16, w[2] | w[3] << 16, w[4] | w[5] << 16, w[6] | w[7] << 16}, {}};
}

__device__ inline void to_floats(const Chunk& chunk, Type type, float (&v)[kChunk]) {
  const uint32_t low[4] = {chunk.low.x, chunk.low.y, chunk.low.z, chunk.low.w};
  const uint32_t high[4] = {chunk.high.x, chunk.high.y, chunk.high.z, chunk.high.w};
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (type == Type::f32) {
      v[i] = __uint_as_float(low[i]);
      v[i + 4] = __uint_as_float(high[i]);
    } else {
      v[2 * i] = bf16_low(low[i]);
      v[2 * i + 1] = bf16_high(low[i]);
    }
}

__device__ inline void store_chunk(char* row, Type type, int64_t col, int64_t count, bool aligned,
                                   const float (&v)[kChunk]) {
  if (type == Type::f32) {
    auto* p = reinterpret_cast<float*>(row) + col;
    if (aligned && count >= kChunk) {
      reinterpret_cast<float4*>(p)[0] = {v[0], v[1], v[2], v[3]};
      reinterpret_cast<float4*>(p)[1] = {v[4], v[5], v[6], v[7]};
    } else {
#pragma unroll
      for (int i = 0; i < kChunk; ++i)
        if (i < count) p[i] = v[i];
    }
    return;
  }
  auto* p = reinterpret_cast<__nv_bfloat16*>(row) + col;
  if (aligned && count >= kChunk) {
    *reinterpret_cast<uint4*>(p) = {pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]),
                                    pack_bf16(v[6], v[7])};
  } else {
#pragma unroll
    for (int i = 0; i < kChunk; ++i)
      if (i < count) p[i] = __float2bfloat16_rn(v[i]);
  }
}

inline bool aligned_rows(const ConstView& v) {
  return (reinterpret_cast<uintptr_t>(v.data) | static_cast<uintptr_t>(v.stride * size_of(v.type))) % 16 == 0;
}

inline bool empty(const ConstView& v) { return v.rows <= 0 || v.cols <= 0; }

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Threads x go over a row's chunks and y over rows; kernels step over rows by the grid's height.
struct Tiling {
  dim3 grid, block;
};
inline Tiling chunk_tiling(int64_t rows, int64_t cols) {
  const int64_t chunks = ceil_div(cols, kChunk);
  unsigned width = 1;
  while (width < 256 && width < chunks) width *= 2;
  const unsigned height = 256 / width;
  return {dim3(static_cast<unsigned>(ceil_div(chunks, width)),
               static_cast<unsigned>(std::min<int64_t>(ceil_div(rows, height), 65535))),
          dim3(width, height)};
}

// Sums over aligned groups of `width` lanes (a power of two), in an order that does not change.
template <class T>
__device__ inline T lane_sum(T value, int width = 32) {
  for (int step = width / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

// The sum over the block, to all threads. The block is a whole number of warps.
template <class T>
__device__ inline T block_sum(T value) {
  __shared__ T parts[32];
  value = lane_sum(value);
  const int warps = static_cast<int>(blockDim.x) / 32;
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  T sum = 0;
  for (int w = 0; w < warps; ++w) sum += parts[w];
  __syncthreads();
  return sum;
}

}  // namespace grinqh::cuda
