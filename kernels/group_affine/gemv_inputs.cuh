// Inputs as 16-bit integers with a scale a group, high and low signed byte apart, in the order in which the
// products of gemv_order.h take them.
#pragma once

#include "cuda/decode.cuh"
#include "cuda/raw_inputs.cuh"
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

// For all threads of a block, kBlocks: of four groups, in a chunk. A normalized token's factor is left to the
// sums.
//
// A warp takes half of a chunk at a time: two of every four groups. Lane 8 s + 4 q + t has the inputs that
// lane t of a product takes of step s, group q: a group lies in the lanes of one q, and stores of a warp fall
// into different banks.
template <class T, GemvInput::Form kForm, int kBlocks>
__device__ void make_integers(const GemvInput& input, const uint16_t* column_scales, int in,
                              const IntegerInputs& to) {
  constexpr int kBatch = kForm == GemvInput::Form::plain ? 4 : 2;  // loads under way before the first is used
  constexpr int kSteps = GemvOrder::kSteps, kGroupSteps = kSteps / kBlocks, kGroup = kGroupSteps * 32;
  const int warp = threadIdx.x / 32, warps = blockDim.x / 32, lane = threadIdx.x % 32;
  const int step = lane / 8, q = lane / 4 % 2, t = lane % 4, block = step / kGroupSteps;
  const int lane_input = (block * 4 + q) * kGroup + step % kGroupSteps * 32 + t * 8;
  const int halves = to.col_chunks * 2;
  const auto input_of = [&](int half) {
    return (to.first_chunk + half / 2) * GemvOrder::kInputs + half % 2 * 2 * kGroup + lane_input;
  };
  // Over the lanes that have a group together.
  const auto over_group = [](auto value, const auto& join) {
    constexpr int kEnd = kGroupSteps * 8;
    for (int other = 1; other < kEnd; other *= other == 2 ? 4 : 2)
      value = join(value, __shfl_xor_sync(0xffffffffu, value, other));
    return value;
  };
  for (int token = 0; token < to.tokens; ++token) {
    float square = 0;
    for (int first = warp; first < halves; first += kBatch * warps) {
      RawInputs<T, kForm> raw[kBatch];
#pragma unroll
      for (int n = 0; n < kBatch; ++n) {
        const int half = first + n * warps;
        raw[n].load(input, in, token, half < halves ? input_of(half) : in);
      }
      // In little code: what comes next moves to the front.
#pragma unroll 1
      for (int half = first; half < min(first + kBatch * warps, halves); half += warps) {
        float v[8];
        raw[0].form(v, square);
#pragma unroll
        for (int n = 1; n < kBatch; ++n) raw[n - 1] = raw[n];
        if (column_scales != nullptr) {
#pragma unroll
          for (int i = 0; i < 8; ++i)
            if (const int at = input_of(half) + i; at < in) v[i] *= float_of_half(column_scales[at]);
        }
        float most = 0;
#pragma unroll
        for (int i = 0; i < 8; ++i) most = fmaxf(most, fabsf(v[i]));
        most = over_group(most, [](float a, float b) { return fmaxf(a, b); });
        uint2 high, low;
        const int own = split_bytes(v, most > 0 ? __fdividef(32512.0f, most) : 0.0f, high, low);
        const int sum = over_group(own, [](int a, int b) { return a + b; });

        const int of_four = half % 2 * 2 + q, chunk = half / 2;
        uint8_t* column =
            to.bytes + (((chunk * kSteps + step) * 4 + of_four) * to.tokens + token) * 64 + t * 8;
        const bool odd = step % 2 != 0;  // the banks that the step before does not take
        *reinterpret_cast<uint2*>(column + (odd ? 32 : 0)) = odd ? low : high;
        *reinterpret_cast<uint2*>(column + (odd ? 0 : 32)) = odd ? high : low;
        if (t == 0 && step % kGroupSteps == 0)
          to.groups[token * to.groups_of_token + (chunk * kBlocks + block) * 4 + of_four] =
              make_float2(most * (1.0f / 32512.0f), static_cast<float>(sum));
      }
    }
    store_squares(input, square, to.squares + token * warps);
  }
}

template <class T, int kBlocks>
__device__ void make_integers(const GemvInput& input, const uint16_t* column_scales, int in,
                              const IntegerInputs& to) {
  with_form(input.form, [&](auto form) {
    make_integers<T, decltype(form)::value, kBlocks>(input, column_scales, in, to);
  });
}

}  // namespace grinqh::cuda
