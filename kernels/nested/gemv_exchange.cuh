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

// What has come to `from`, when it has.
__device__ inline Four receive(float* from) {
  constexpr uint32_t kNothing = NestedSchedule::kNothing;
  uint4 bits;
  do {
    bits = look(from);
  } while (bits.x == kNothing || bits.y == kNothing || bits.z == kNothing || bits.w == kNothing);
  *reinterpret_cast<uint4*>(from) = make_uint4(kNothing, kNothing, kNothing, kNothing);
  Four sums;
  sums.add(make_float4(__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z),
                       __uint_as_float(bits.w)));
  return sums;
}

}  // namespace grinqh::cuda::nested
