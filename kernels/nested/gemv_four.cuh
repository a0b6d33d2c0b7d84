// Four outputs at a time: sums, and how they are written.
#pragma once

#include "cuda/gemv_operands.cuh"

namespace grinqh::cuda::nested {

constexpr int kTogether = 4;  // outputs of a thread

struct Four {
  float of[kTogether] = {};

  __device__ void add(const float4& v) { of[0] += v.x, of[1] += v.y, of[2] += v.z, of[3] += v.w; }
  __device__ float4 vector() const { return make_float4(of[0], of[1], of[2], of[3]); }
};

// Outputs n .. n + 3 of a token, of which `valid` exist.
template <class T>
__device__ inline void put_four(const GemvOutput& output, T* row, int n, int valid, Four sums) {
  if (output.bias != nullptr)
#pragma unroll
    for (int i = 0; i < kTogether; ++i)
      if (i < valid) sums.of[i] += output.bias[n + i];
  const bool whole =
      valid >= kTogether && reinterpret_cast<uintptr_t>(row + n) % (kTogether * sizeof(T)) == 0;
  if (output.add) {
    float before[kTogether];
    load_part(row + n, whole ? kTogether : 0, before);
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      if (!whole && i < valid) before[i] = to_float(row[n + i]);
      sums.of[i] += before[i];
    }
  }
  if (whole) return store_four(sums.of, row + n);
#pragma unroll
  for (int i = 0; i < kTogether; ++i)
    if (i < valid) store(sums.of[i], row + n + i);
}
__device__ inline void put_four(const GemvOutput& output, int token, int n, int valid, const Four& sums) {
  if (output.y.type == Type::bf16)
    put_four(output, static_cast<__nv_bfloat16*>(output.y.data) + token * output.y.stride, n, valid, sums);
  else
    put_four(output, static_cast<float*>(output.y.data) + token * output.y.stride, n, valid, sums);
}

}  // namespace grinqh::cuda::nested
