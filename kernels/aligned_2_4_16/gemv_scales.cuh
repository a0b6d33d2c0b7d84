// How a lane reads the scales and zeros of a unit (gemv_order.h).
#pragma once

#include "cuda/decode.cuh"
#include "kernels/aligned_2_4_16/gemv_order.h"

namespace grinqh::cuda {

constexpr uint32_t kAllLanes = 0xffffffffu;

__device__ inline float power_of_two(int exponent) { return __int_as_float((127 + exponent) << 23); }

template <class T>
__device__ T shared_value(const uint8_t* at) {
  return *reinterpret_cast<const T*>(at);
}
template <int kWords>
__device__ void load_words(const uint8_t* at, uint32_t (&words)[kWords]) {
  if constexpr (kWords == 4) {
    const auto four = shared_value<uint4>(at);
    words[0] = four.x, words[1] = four.y, words[2] = four.z, words[3] = four.w;
  } else {
    const auto two = shared_value<uint2>(at);
    words[0] = two.x, words[1] = two.y;
  }
}

// What a group's sums are scaled by, of one lane's outputs g and g + 8 in a unit: the scales and zeros as
// they were stored. Sums of products are kept times 2^kKeptPower.
constexpr int kKeptPower = -59;

template <bool kWide>
struct GroupScales;

template <>
struct GroupScales<true> {
  static constexpr int kCodeBits = 4;
  uint32_t zeros, scales[2];

  __device__ void load(const uint8_t* unit, int g, int q) {
    zeros = shared_value<uint16_t>(unit + Aligned2416Order::kZeros + (4 * g + q) * 2);
    load_words(unit + Aligned2416Order::kScales + (4 * g + q) * 8, scales);
  }
  // Of step j: zeros as high as codes, scales times the input's.
  __device__ void take(int j, float of_input, int (&zero)[2], float (&scale)[2]) const {
    zero[0] = static_cast<int>(zeros & (15u << 4 * j));
    zero[1] = static_cast<int>(zeros >> 8 & (15u << 4 * j));
    scale[0] = float_of_half(static_cast<uint16_t>(scales[j])) * of_input;
    scale[1] = float_of_half(static_cast<uint16_t>(scales[j] >> 16)) * of_input;
  }
  // What the input's scale is multiplied by beforehand: codes are 16^j too large.
  static __device__ int input_power(int j) { return kKeptPower - 4 * j; }
};

// scale code + second zero, both at bit 4 j, is a subnormal float by its bits: 2^-149 times the integer, and
// no conversion.
template <>
struct GroupScales<false> {
  static constexpr int kCodeBits = 2;
  uint32_t zeros, codes, second_zeros, second_scales[2];

  __device__ void load(const uint8_t* unit, int g, int q) {
    zeros = shared_value<uint16_t>(unit + Aligned2416Order::kZeros + (4 * g + q) * 2);
    codes = shared_value<uint32_t>(unit + Aligned2416Order::kScales + (4 * g + q) * 4);
    load_words(unit + Aligned2416Order::kSecondScales + q * 8, second_scales);
    second_zeros = shared_value<uint16_t>(unit + Aligned2416Order::kSecondZeros + q * 2);
  }
  __device__ void take(int j, float of_input, int (&zero)[2], float (&scale)[2]) const {
    const uint32_t mask = 15u << 4 * j, half = second_scales[j / 2] >> j % 2 * 16;
    const float second = float_of_half(static_cast<uint16_t>(half)) * of_input;
    const uint32_t offset = second_zeros & mask;
    zero[0] = static_cast<int>(zeros & (3u << 2 * j));
    zero[1] = static_cast<int>(zeros >> 8 & (3u << 2 * j));
    scale[0] = __uint_as_float((codes & mask) + offset) * second;
    scale[1] = __uint_as_float((codes >> 16 & mask) + offset) * second;
  }
  static __device__ int input_power(int j) { return kKeptPower + 149 - 6 * j; }
};

}  // namespace grinqh::cuda
