// Sums that blocks leave for each other in device memory. A place that nobody has written holds kNothing, so
// a value says by itself that it has come; who has read it puts kNothing back, for the next launch, which
// writes only after this one has ended.
#pragma once

#include "kernels/nested/gemv_four.cuh"
#include "kernels/nested/gemv_plan.cuh"

namespace grinqh::cuda::nested {

// Sums as the exchange holds them: another NaN where one is kNothing.
__device__ inline void send(float* to, const Four& sums) {
  uint32_t bits[kTogether];
#pragma unroll
  for (int i = 0; i < kTogether; ++i) {
    bits[i] = __float_as_uint(sums.of[i]);
    if (bits[i] == NestedSchedule::kNothing) bits[i] = 0x7fffffffu;
  }
  asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(bits[0]), "r"(bits[1]),
               "r"(bits[2]), "r"(bits[3])
               : "memory");
}
__device__ inline uint4 look(const float* from) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from)
               : "memory");
  return v;
}

__device__ inline bool has_come(const uint4& bits) {
  constexpr uint32_t kNothing = NestedSchedule::kNothing;
  return bits.x != kNothing && bits.y != kNothing && bits.z != kNothing && bits.w != kNothing;
}

// The sum of what comes from others first, first + kStep, ... below count, when it has come. from: what the
// first of all leaves; the others' lie kApart floats behind each other. Some are waited for at once if one
// has many.
template <int kStep, int kApart>
__device__ inline Four receive_all(float* from, int first, int count) {
  constexpr uint32_t kNothing = NestedSchedule::kNothing;
  constexpr int kAtOnce = kStep == 1 ? 4 : 1;
  Four sums;
  for (int other = first; other < count; other += kAtOnce * kStep) {
    uint4 bits[kAtOnce];
    bool all;
    do {
      all = true;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) bits[i] = look(from + min(other + i * kStep, count - 1) * kApart);
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) all = all && has_come(bits[i]);
    } while (!all);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (other + i * kStep >= count) break;
      *reinterpret_cast<uint4*>(from + (other + i * kStep) * kApart) =
          make_uint4(kNothing, kNothing, kNothing, kNothing);
      sums.add(make_float4(__uint_as_float(bits[i].x), __uint_as_float(bits[i].y), __uint_as_float(bits[i].z),
                           __uint_as_float(bits[i].w)));
    }
  }
  return sums;
}

}  // namespace grinqh::cuda::nested
