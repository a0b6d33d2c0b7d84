// Inputs as integers of two signed bytes, which products of bytes sum exactly.
#pragma once

#include <cstdint>

namespace grinqh::cuda {

constexpr float kMostSplit = 32512.0f;  // the high byte of what it rounds to is still 127

// Eight integers v * inverse, of magnitudes up to kMostSplit, as high and low bytes; their sum.
__device__ inline int split_integers(const float (&v)[8], float inverse, uint2& high, uint2& low) {
  // By 1.5 2^23 + 128 the last 16 bits of a float32 are the integer + 128: the upper byte is the high one,
  // the lower the low one + 128.
  constexpr float kPlace = 12582912.0f + 128.0f;
  const auto placed = [&](int i) { return __float_as_uint(fmaf(v[i], inverse, kPlace)); };
  uint32_t pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) pairs[i] = __byte_perm(placed(2 * i), placed(2 * i + 1), 0x5140);
  const auto lower = [&](int i) { return __byte_perm(pairs[i], pairs[i + 1], 0x5410) ^ 0x80808080u; };
  const auto upper = [&](int i) { return __byte_perm(pairs[i], pairs[i + 1], 0x7632); };
  low = make_uint2(lower(0), lower(2));
  high = make_uint2(upper(0), upper(2));
  const auto sum = [](uint2 bytes) {
    constexpr int kOnes = 0x01010101;
    return __dp4a(static_cast<int>(bytes.x), kOnes, __dp4a(static_cast<int>(bytes.y), kOnes, 0));
  };
  return sum(high) * 256 + sum(low);
}

// Greatest magnitude among eight values of each of `share` neighbouring lanes.
__device__ inline float greatest_of(const float (&v)[8], int share) {
  float most = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) most = fmaxf(most, fabsf(v[i]));
  for (int other = 1; other < share; other *= 2)
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, other));
  return most;
}

}  // namespace grinqh::cuda
