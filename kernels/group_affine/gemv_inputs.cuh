// Inputs as 16-bit integers with a scale a group, high and low signed byte apart, in the order in which the
// products of gemv_order.h take them.
#pragma once

#include "cuda/decode.cuh"
#include "cuda/gemv_operands.cuh"
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
  int share_bits;  // log2 of the threads that have a group together, 8 inputs each

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

// For all threads of a block. A normalized token's factor is left to the sums.
template <class T>
__device__ void make_integers(const GemvInput& input, const uint16_t* column_scales, int in,
                              const IntegerInputs& to) {
  constexpr int kBatch = 4;  // loads under way before the first is used
  constexpr int kChunkItems = GemvOrder::kInputs / 8;
  const int items = to.col_chunks * kChunkItems, first_item = to.first_chunk * kChunkItems;
  const int share = 1 << to.share_bits;
  for (int token = 0; token < to.tokens; ++token) {
    float square = 0;
    for (int first = threadIdx.x; first < items; first += kBatch * blockDim.x) {
      float all[kBatch][8];
#pragma unroll
      for (int n = 0; n < kBatch; ++n)
        load_unscaled_inputs<T>(input, in, token,
                                first + n * blockDim.x < items ? first_item + first + n * blockDim.x : in,
                                all[n], square);
#pragma unroll
      for (int n = 0; n < kBatch; ++n) {
        const int item = first + n * blockDim.x;
        if (item >= items) break;  // whole warps
        float(&v)[8] = all[n];
        if (column_scales != nullptr) {
#pragma unroll
          for (int i = 0; i < 8; ++i)
            if ((first_item + item) * 8 + i < in)
              v[i] *= float_of_half(column_scales[(first_item + item) * 8 + i]);
        }
        float most = 0;
#pragma unroll
        for (int i = 0; i < 8; ++i) most = fmaxf(most, fabsf(v[i]));
        for (int other = 1; other < share; other *= 2)
          most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, other));
        uint2 high, low;
        int sum = split_bytes(v, most > 0 ? __fdividef(32512.0f, most) : 0.0f, high, low);
        for (int other = 1; other < share; other *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);

        const int group = item >> to.share_bits, q = group % 4, t = item % 4;
        const int step = (group / 4 << to.share_bits | (item & (share - 1))) / 4;
        uint8_t* column = to.bytes + ((step * 4 + q) * to.tokens + token) * 64 + t * 8;
        *reinterpret_cast<uint2*>(column) = high;
        *reinterpret_cast<uint2*>(column + 32) = low;
        if ((item & (share - 1)) == 0)
          to.groups[token * to.groups_of_token + group] =
              make_float2(most * (1.0f / 32512.0f), static_cast<float>(sum));
      }
    }
    store_squares(input, square, to.squares + token * (blockDim.x / 32));
  }
}

}  // namespace grinqh::cuda
