// Inputs as 16-bit integers with a scale a group, high and low signed byte apart, in the order in which the
// products of gemv_order.h take them.
#pragma once

#include "cuda/decode.cuh"
#include "kernels/group_affine/gemv_order.h"

namespace grinqh::cuda {

// What is made of inputs, in shared memory.
//   bytes   a column is 32 bytes: 8 inputs of each t. One token: [step][q][high, low]; several:
//           [step][q][token][high, low]
//   groups  [token][group]: what an integer is worth, the sum of the integers
//   squares [token][warp]: of a token that is still to be normalized
//
// Of col_chunks chunks from first_chunk on.
struct IntegerInputs {
  uint8_t* bytes;
  float2* groups;
  float* squares;
  int tokens, groups_of_token;
  int first_chunk, col_chunks;

  static constexpr int bytes_a_token(int col_chunks) { return col_chunks * GemvOrder::kInputs * 2; }
};

// Eight integers of at most 32512 (its high byte, rounded, is still 127) as high and low bytes; their sum.
__device__ inline int split_bytes(const float (&v)[8], float inverse, uint2& high, uint2& low) {
  // By 1.5 2^23 + 128 the last 16 bits of a float32 are the integer + 128: the upper byte is the high one,
  // the lower the low one + 128.
  constexpr float kPlace = 12582912.0f + 128.0f;
  uint32_t pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i)
    pairs[i] = __byte_perm(__float_as_uint(fmaf(v[2 * i], inverse, kPlace)),
                           __float_as_uint(fmaf(v[2 * i + 1], inverse, kPlace)), 0x5140);
  low = make_uint2(__byte_perm(pairs[0], pairs[1], 0x5410) ^ 0x80808080u,
                   __byte_perm(pairs[2], pairs[3], 0x5410) ^ 0x80808080u);
  high = make_uint2(__byte_perm(pairs[0], pairs[1], 0x7632), __byte_perm(pairs[2], pairs[3], 0x7632));
  constexpr int kOnes = 0x01010101;
  const auto sum = [](uint2 bytes) {
    return __dp4a(static_cast<int>(bytes.x), kOnes, __dp4a(static_cast<int>(bytes.y), kOnes, 0));
  };
  return sum(high) * 256 + sum(low);
}

// 0 for a group of zeros, or of floats that are next to nothing.
__device__ inline float inverse_step(float most) {
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(most));
  return most > 1e-33f ? inverse * 32512.0f : 0.0f;
}

}  // namespace grinqh::cuda
