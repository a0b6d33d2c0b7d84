// Integers of a single token's inputs as operand B of the tensor cores: a byte of them stands at one of four
// inner indices, in a column for each of the four, the high byte in columns 0 .. 3, the low one in columns 4
// .. 7.
#pragma once

#include "kernels/nested/gemv_integers.cuh"

namespace grinqh::cuda::nested {

// How a lane reads operand B: the integers of a step's places t and t + 4 in its column, a byte of which
// stands at one of four inner indices.
template <class S>
struct Columns {
  uint32_t at;         // of the lane's words of the next step
  uint32_t near, far;  // selectors
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
  __device__ Columns(const Warp<S>& warp, bool listed) {
    const int g = warp.lane / 4, byte = g % 4, column = byte * S::kColumns / 4;
    at = words_at(warp, listed, column);
    near = selector(byte, column, g < 4, false);
    far = selector(byte, column, g < 4, true);
  }

  __device__ void advance(int places) { at += places / NestedOrder::kStep * kStepBytes<S>; }
  // step: from the next one on.
  __device__ uint2 load(int step) const {
    const uint2 word = words(at + step * kStepBytes<S>);
    return {__byte_perm(word.x, 0, near), __byte_perm(word.y, 0, far)};
  }
};

}  // namespace grinqh::cuda::nested
