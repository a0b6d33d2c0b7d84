// Integers of inputs as operand B of the tensor cores: a byte of them stands at one of four inner indices, in
// a column for each of the four, the high byte in columns 0 .. 3, the low one in columns 4 .. 7.
#pragma once

#include "kernels/nested/gemv_integers.cuh"

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
// How a lane reads operand B: the integers of a step's places t and t + 4 in its column, a byte of which
// stands at one of four inner indices.
template <class S>
struct Columns {
  uint32_t at;         // of the lane's words of the unit's first step
  uint32_t near, far;  // selectors
  uint32_t planes_at;  // several tokens, listed: of the planes of the lane's first channel,
  bool checks;         // which tokens may have fewer of (else they have all, or inputs of 0)
  static constexpr uint32_t kNone = 0x4444;

  // high: the byte of the integers that the selectors take.
  __device__ static uint32_t selector(int byte, int column, bool high, bool far) {
    const uint32_t from = (S::kColumns == 1 ? (far ? 2u : 0u) : column % 2 * 2u) + (high ? 1u : 0u);
    return (kNone & ~(15u << 4 * byte)) | from << 4 * byte;
  }
  __device__ static uint32_t words_at(const Warp<S>& warp, bool listed, int column) {
    return shared_address(warp.integers(listed, 0)) + warp.lane % 4 * (4 * S::kColumns) + column / 2 * 8;
  }
  // Both words of a lane, `at` a step.
  __device__ static uint2 words(uint32_t at) {
    if constexpr (S::kColumns > 1) return load_pair(at);
    const uint32_t both = load_word(at);
    return {both, both};
  }

  // listed: of the list's places, else of the unit's channels.
  __device__ Columns(const Warp<S>& warp, int turn, bool listed) {
    const int g = warp.lane / 4, byte = g % 4, column = byte * S::kColumns / 4;
    at = words_at(warp, listed, column);
    near = selector(byte, column, g < 4, false);
    far = selector(byte, column, g < 4, true);
    checks = S::kTokens > 1 && listed;
    planes_at = S::kTokens > 1 ? shared_address(warp.planes(0, turn)) + warp.lane % 4 : 0;
  }

  // The next steps.
  __device__ void advance(int steps) { at += steps * kStepBytes<S>, planes_at += steps * NestedOrder::kStep; }
  // step: from the next one on.
  __device__ uint2 load(int token, int step, int plane) const {
    const uint2 word = words(at + token * WarpMemory<S>::kIntegerBytes + step * kStepBytes<S>);
    if constexpr (S::kTokens == 1) {
      return {__byte_perm(word.x, 0, near), __byte_perm(word.y, 0, far)};
    } else {
      const uint32_t planes = planes_at + token * S::kMaxUnit + step * NestedOrder::kStep;
      const bool has_near = !checks || static_cast<int>(load_byte(planes)) > plane,
                 has_far = !checks || static_cast<int>(load_byte(planes + 4)) > plane;
      return {__byte_perm(word.x, 0, has_near ? near : kNone), __byte_perm(word.y, 0, has_far ? far : kNone)};
    }
  }
};

}  // namespace grinqh::cuda::nested
