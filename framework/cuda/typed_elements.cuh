// Elements of f32 and bf16 rows as float32: what kernels over both types share.
#pragma once

#include <cuda_bf16.h>

#include "cuda/types.h"

namespace grinqh::cuda {

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline void store(float x, float* to) { *to = x; }
__device__ inline void store(float x, __nv_bfloat16* to) { *to = __float2bfloat16(x); }

// Eight neighbours as they lie in memory.
template <class T>
struct Packed8 {
  uint4 words[sizeof(T) / 2];

  __device__ void unpack(float (&x)[8]) const {
    if constexpr (sizeof(T) == 4) {
      for (int i = 0; i < 2; ++i) {
        x[4 * i] = __uint_as_float(words[i].x);
        x[4 * i + 1] = __uint_as_float(words[i].y);
        x[4 * i + 2] = __uint_as_float(words[i].z);
        x[4 * i + 3] = __uint_as_float(words[i].w);
      }
    } else {
      const uint32_t pairs[4] = {words[0].x, words[0].y, words[0].z, words[0].w};
      for (int i = 0; i < 4; ++i) {
        x[2 * i] = __uint_as_float(pairs[i] << 16);
        x[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
      }
    }
  }
};

// `from` lies at a multiple of 16 bytes.
template <class T>
__device__ Packed8<T> load8(const T* from) {
  Packed8<T> packed;
  for (int i = 0; i < static_cast<int>(sizeof(T)) / 2; ++i)
    packed.words[i] = reinterpret_cast<const uint4*>(from)[i];
  return packed;
}

// x[i] for i < valid, zeros behind: nothing past the row's end is touched.
template <class T>
__device__ void load8_part(const T* from, int valid, float (&x)[8]) {
  if (valid >= 8) {
    load8(from).unpack(x);
    return;
  }
  for (int i = 0; i < 8; ++i) x[i] = i < valid ? to_float(from[i]) : 0.0f;
}

// The same of four, `from` at a multiple of four elements.
template <class T>
__device__ void load_part(const T* from, int valid, float (&x)[4]) {
  if (valid < 4) {
    for (int i = 0; i < 4; ++i) x[i] = i < valid ? to_float(from[i]) : 0.0f;
  } else if constexpr (sizeof(T) == 4) {
    const float4 four = *reinterpret_cast<const float4*>(from);
    x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
  } else {
    const uint2 pairs = *reinterpret_cast<const uint2*>(from);
    x[0] = __uint_as_float(pairs.x << 16), x[1] = __uint_as_float(pairs.x & 0xffff0000u);
    x[2] = __uint_as_float(pairs.y << 16), x[3] = __uint_as_float(pairs.y & 0xffff0000u);
  }
}
template <class T>
__device__ void load_part(const T* from, int valid, float (&x)[8]) {
  load8_part(from, valid, x);
}

__device__ inline void store_four(const float (&x)[4], float* to) {
  *reinterpret_cast<float4*>(to) = make_float4(x[0], x[1], x[2], x[3]);
}
__device__ inline void store_four(const float (&x)[4], __nv_bfloat16* to) {
  __nv_bfloat162 pairs[2] = {__floats2bfloat162_rn(x[0], x[1]), __floats2bfloat162_rn(x[2], x[3])};
  *reinterpret_cast<uint2*>(to) = *reinterpret_cast<const uint2*>(pairs);
}

template <class T>
__device__ void store8_part(const float (&x)[8], int valid, T* to) {
  if (valid < 8) {
    for (int i = 0; i < 8; ++i)
      if (i < valid) store(x[i], to + i);
  } else if constexpr (sizeof(T) == 4) {
    reinterpret_cast<float4*>(to)[0] = make_float4(x[0], x[1], x[2], x[3]);
    reinterpret_cast<float4*>(to)[1] = make_float4(x[4], x[5], x[6], x[7]);
  } else {
    union {
      __nv_bfloat162 pairs[4];
      uint4 word;
    };
    for (int i = 0; i < 4; ++i) pairs[i] = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
    *reinterpret_cast<uint4*>(to) = word;
  }
}

// Calls body(T()) with T the element type of a view.
template <class Body>
void with_type(Type type, const Body& body) {
  if (type == Type::f32)
    body(float());
  else
    body(__nv_bfloat16());
}

}  // namespace grinqh::cuda
