// Slots multiplied on the tensor cores as they lie: a register of operand A holds four outputs of a channel,
// so a channel's input stands at one of four inner indices of operand B, for each of the four in a column of
// its own: its high byte in columns 0 .. 3, its low byte in columns 4 .. 7. Nothing is transposed.
#pragma once

#include "cuda/byte_products.cuh"
#include "kernels/nested/gemv_integers.cuh"
#include "kernels/nested/gemv_ring.cuh"

namespace grinqh::cuda::nested {

__device__ inline uint2 load_pair(uint32_t address) {
  uint2 v;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(address) : "memory");
  return v;
}
__device__ inline uint32_t load_word(uint32_t address) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
  return v;
}
// of[token][d] has digits 0 .. d of the bytes, digit e 4^e fold: a mask that keeps the lower digits is one
// instruction less for the whole byte, and differences are exact.
template <class S>
struct Sums {
  int32_t of[S::kTokens][4][4];

  __device__ void clear() {
#pragma unroll
    for (int t = 0; t < S::kTokens; ++t)
#pragma unroll
      for (int i = 0; i < 16; ++i) of[t][i / 4][i % 4] = 0;
  }
  // What was summed is worth 2^bits more than what follows.
  __device__ void raise(int bits) {
#pragma unroll
    for (int t = 0; t < S::kTokens; ++t)
#pragma unroll
      for (int i = 0; i < 16; ++i) of[t][i / 4][i % 4] <<= bits;
  }
};

// How a lane reads operand B.
template <class S>
struct Columns {
  uint32_t at;         // of the lane's word of the unit's first step
  uint32_t near, far;  // selectors: a byte of the word to its inner index
  uint32_t planes_at;  // several tokens: of the planes of the lane's first channel
  int stride, planes_stride;
  static constexpr uint32_t kNothing = 0x4444;
  static constexpr uint32_t kStepBytes = 16 * S::kColumns;

  __device__ Columns(const Problem& p, const Warp& warp, int unit) {
    const int g = warp.lane / 4, t = warp.lane % 4, byte = g % 4;
    at = shared_address(warp.integers(p, 0, unit)) + (t * S::kColumns + byte * S::kColumns / 4) * 4;
    const uint32_t keep = kNothing & ~(15u << 4 * byte);
    near = keep | (g < 4 ? 0u : 1u) << 4 * byte;
    far = keep | (g < 4 ? 2u : 3u) << 4 * byte;
    planes_at = shared_address(warp.planes(p, 0, unit)) + t;
    stride = p.plan.integers_stride;
    planes_stride = p.padded;
  }

  // position: of the step in the list, a multiple of 8.
  __device__ uint2 load(int token, int position, int plane) const {
    const uint32_t word = load_word(at + token * stride + position / 8 * kStepBytes);
    if constexpr (S::kTokens == 1) {
      return {__byte_perm(word, 0, near), __byte_perm(word, 0, far)};
    } else {
      const uint32_t planes = planes_at + token * planes_stride + position;
      const bool has_near = static_cast<int>(load_byte(planes)) > plane,
                 has_far = static_cast<int>(load_byte(planes + 4)) > plane;
      return {__byte_perm(word, 0, has_near ? near : kNothing),
              __byte_perm(word, 0, has_far ? far : kNothing)};
    }
  }
};

// A slot's products, kSteps of eight channels that begin `step_bytes` after each other; meanwhile() runs
// while operands are loaded. Steps from `steps` on have no channels.
template <class S, class Meanwhile>
__device__ inline void multiply_pairs(uint32_t slot, const Columns<S>& columns, int position, int steps,
                                      int plane, int lane, Sums<S>& sums, const Meanwhile& meanwhile) {
  const uint32_t at = slot + lane % 4 * 64 + lane / 4 * 8;
  uint2 near[2], far[2], b[2][S::kTokens];
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    near[step] = load_pair(at + step * 512), far[step] = load_pair(at + step * 512 + 256);
#pragma unroll
    for (int t = 0; t < S::kTokens; ++t) b[step][t] = columns.load(t, position + step * 8, plane);
  }
  meanwhile();
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    if (step >= steps) break;
#pragma unroll
    for (int d = 0; d < 4; ++d) {
      const uint32_t mask = ((4u << 2 * d) - 1) * 0x01010101u;
      const uint32_t a0 = near[step].x & mask, a1 = near[step].y & mask, a2 = far[step].x & mask,
                     a3 = far[step].y & mask;
#pragma unroll
      for (int t = 0; t < S::kTokens; ++t)
        add_byte_product(sums.of[t][d], a0, a1, a2, a3, b[step][t].x, b[step][t].y);
    }
  }
}

template <class S, class Meanwhile>
__device__ inline void multiply_singles(uint32_t slot, const Columns<S>& columns, int position, int steps,
                                        int plane, int lane, Sums<S>& sums, const Meanwhile& meanwhile) {
  const uint32_t at = slot + lane % 4 * 32 + lane / 4 * 4;
  uint32_t near[4], far[4];
#pragma unroll
  for (int step = 0; step < 4; ++step)
    near[step] = load_word(at + step * 256), far[step] = load_word(at + step * 256 + 128);
  meanwhile();
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    if (step >= steps) break;
    uint2 b[S::kTokens];
#pragma unroll
    for (int t = 0; t < S::kTokens; ++t) b[t] = columns.load(t, position + step * 8, plane);
#pragma unroll
    for (int d = 0; d < 4; ++d) {
      const uint32_t mask = (0x55u & ((4u << 2 * d) - 1)) * 0x01010101u;
      const uint32_t a0 = near[step] & mask, a1 = near[step] >> 1 & mask, a2 = far[step] & mask,
                     a3 = far[step] >> 1 & mask;
#pragma unroll
      for (int t = 0; t < S::kTokens; ++t) add_byte_product(sums.of[t][d], a0, a1, a2, a3, b[t].x, b[t].y);
    }
  }
}

}  // namespace grinqh::cuda::nested
