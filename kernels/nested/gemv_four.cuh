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
struct Place {
  int token, n, valid;
};

// row(pointer) of the token's outputs.
template <class Row>
__device__ inline auto with_row(const GemvOutput& output, const Place& place, const Row& row) {
  return output.y.type == Type::bf16
             ? row(static_cast<__nv_bfloat16*>(output.y.data) + place.token * output.y.stride + place.n)
             : row(static_cast<float*>(output.y.data) + place.token * output.y.stride + place.n);
}
template <class T>
__device__ inline bool is_whole(const T* outputs, const Place& place) {
  return place.valid >= kTogether && reinterpret_cast<uintptr_t>(outputs) % (kTogether * sizeof(T)) == 0;
}

// What is added to sums: asked for before they are there.
__device__ inline Four added_to(const GemvOutput& output, const Place& place) {
  Four added;
  if (output.add)
    with_row(output, place, [&](const auto* y) {
      const bool whole = is_whole(y, place);
      if (whole) load_part(y, kTogether, added.of);
#pragma unroll
      for (int i = 0; i < kTogether; ++i)
        if (!whole && i < place.valid) added.of[i] = to_float(y[i]);
    });
  if (output.bias != nullptr)
#pragma unroll
    for (int i = 0; i < kTogether; ++i)
      if (i < place.valid) added.of[i] += output.bias[place.n + i];
  return added;
}

__device__ inline void put_four(const GemvOutput& output, const Place& place, const Four& values) {
  with_row(output, place, [&](auto* y) {
    if (is_whole(y, place)) return store_four(values.of, y);
#pragma unroll
    for (int i = 0; i < kTogether; ++i)
      if (i < place.valid) store(values.of[i], y + i);
  });
}

}  // namespace grinqh::cuda::nested
