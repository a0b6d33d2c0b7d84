// How rows of 16-bit weights are multiplied, by the type of the weights: what becomes of an input, and the
// product of 16 outputs x 32 inputs with it, a float32 sum on the tensor cores. An input is the sum of a high
// and a low number; those of a token are neighbouring columns.
//
// Lane 4 g + t of a warp has outputs g and g + 8, inputs 8 t .. 8 t + 7, and column g: the order in which a
// product takes its inputs is free.
#pragma once

#include <cuda_fp16.h>

#include "cuda/tensor_cores.cuh"

namespace grinqh::cuda {

// Inputs as pairs of bfloat16.
struct Bf16Products {
  static constexpr int kColumnBytes = 64;  // 32 inputs

  // Eight inputs, item t of a column and of the next one.
  static __device__ void put(const float (&v)[8], int t, uint8_t* column) {
    uint32_t high[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float a = v[2 * i], b = v[2 * i + 1];
      high[i] = pair_of(a, b);
      low[i] = pair_of(a - __uint_as_float(high[i] << 16), b - __uint_as_float(high[i] & 0xffff0000u));
    }
    *reinterpret_cast<uint4*>(column + t * 16) = {high[0], high[1], high[2], high[3]};
    *reinterpret_cast<uint4*>(column + kColumnBytes + t * 16) = {low[0], low[1], low[2], low[3]};
  }

  // top, bottom: eight weights each, of outputs g and g + 8.
  static __device__ void add(float (&acc)[4], const uint4& top, const uint4& bottom, int t,
                             const uint8_t* column) {
    const uint4 b = *reinterpret_cast<const uint4*>(column + t * 16);
    multiply(acc, {top.x, bottom.x, top.y, bottom.y}, b.x, b.y);
    multiply(acc, {top.z, bottom.z, top.w, bottom.w}, b.z, b.w);
  }

 private:
  static __device__ uint32_t pair_of(float first, float second) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
};

// A float16 is a TF32 number as it is, and the range of a float32 input needs no care there: inputs as pairs
// of TF32.
struct F16Products {
  static constexpr int kColumnBytes = 128;

  static __device__ void put(const float (&v)[8], int t, uint8_t* column) {
    float high[8], low[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      high[i] = __uint_as_float(__float_as_uint(v[i]) & 0xffffe000u);
      low[i] = v[i] - high[i];
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const auto four = [&](const float(&from)[8]) {
        return make_float4(from[4 * i], from[4 * i + 1], from[4 * i + 2], from[4 * i + 3]);
      };
      *reinterpret_cast<float4*>(column + t * 32 + i * 16) = four(high);
      *reinterpret_cast<float4*>(column + kColumnBytes + t * 32 + i * 16) = four(low);
    }
  }

  static __device__ void add(float (&acc)[4], const uint4& top, const uint4& bottom, int t,
                             const uint8_t* column) {
    const uint4 first = *reinterpret_cast<const uint4*>(column + t * 32),
                second = *reinterpret_cast<const uint4*>(column + t * 32 + 16);
    multiply_pairs(acc, top.x, bottom.x, first.x, first.y);
    multiply_pairs(acc, top.y, bottom.y, first.z, first.w);
    multiply_pairs(acc, top.z, bottom.z, second.x, second.y);
    multiply_pairs(acc, top.w, bottom.w, second.z, second.w);
  }

 private:
  // c[16, 8] += a[16, 8] b[8, 8]: two inputs a lane.
  static __device__ void multiply_pairs(float (&c)[4], uint32_t top, uint32_t bottom, uint32_t b0,
                                        uint32_t b1) {
    const float2 a = of(top), below = of(bottom);
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(__float_as_uint(a.x)), "r"(__float_as_uint(below.x)), "r"(__float_as_uint(a.y)),
          "r"(__float_as_uint(below.y)), "r"(b0), "r"(b1));
  }
  static __device__ float2 of(uint32_t halves) {
    return __half22float2(*reinterpret_cast<const __half2*>(&halves));
  }
};

}  // namespace grinqh::cuda
