// Digits of slots, whichever way they are multiplied.
#pragma once

#include "kernels/nested/gemv_loads.cuh"
#include "kernels/nested/gemv_plan.cuh"

namespace grinqh::cuda::nested {

// A mask of digits 0 .. d of four bytes. Sums are made of these: for the whole byte that is one instruction
// less than of each digit alone, and differences are exact.
__device__ constexpr uint32_t lower_digits(int d) { return ((4u << 2 * d) - 1) * 0x01010101u; }

// 1-bit digits of eight outputs, and two planes of them, as 2-bit digits; of `planes` the first above.
constexpr uint32_t kLowerBits = 0x55555555u;
__device__ inline uint2 part_digits(uint32_t digits) {
  return {digits & kLowerBits, digits >> 1 & kLowerBits};
}
__device__ inline uint2 join_digits(uint2 planes) {
  return {(planes.x & kLowerBits) << 1 | (planes.y & kLowerBits),
          (planes.x & ~kLowerBits) | (planes.y >> 1 & kLowerBits)};
}

// What a slot has: rows of 2-bit digits, of 1-bit digits, or of two planes of 1-bit digits that are joined.
enum class Rows { pairs, singles, joined };

template <class S, Rows kRows>
constexpr int kPlacesOf = kRows == Rows::singles ? S::kSingleBits : S::kPairs;

}  // namespace grinqh::cuda::nested
