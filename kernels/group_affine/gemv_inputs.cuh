// How a block makes its inputs.
#pragma once

#include "cuda/raw_inputs.cuh"
#include "kernels/group_affine/gemv_integers.cuh"
#include "kernels/group_affine/gemv_order.h"

namespace grinqh::cuda {

// For all threads of a block, kBlocks: of four groups, in a chunk. A normalized token's factor is left to the
// sums.
//
// A warp takes half of a chunk at a time: two of every four groups. Lane 8 s + 4 q + t has the inputs that
// lane t of a product takes of step s, group q: a group lies in the lanes of one q, and stores of a warp fall
// into different banks.
template <class T, GemvInput::Form kForm, int kBlocks>
__device__ void make_integers(const GemvInput& input, const uint16_t* column_scales, int in,
                              const IntegerInputs& to) {
  // Loads under way before the first is used: as many as 64 registers hold.
  using Form = GemvInput::Form;
  constexpr int kBatch = sizeof(T) == 4 || kForm == Form::rms_norm ? 2 : kForm == Form::plain ? 4 : 3;
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
  const auto put = [&](const float(&v)[8], int token, int half) {
    float most = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) most = fmaxf(most, fabsf(v[i]));
    most = over_group(most, [](float a, float b) { return fmaxf(a, b); });
    uint2 high, low;
    const int own = split_bytes(v, inverse_step(most), high, low);
    const int sum = over_group(own, [](int a, int b) { return a + b; });

    const int of_four = half % 2 * 2 + q, chunk = half / 2;
    uint8_t* column = to.bytes + (((chunk * kSteps + step) * 4 + of_four) * to.tokens + token) * 64 + t * 8;
    const bool odd = step % 2 != 0;  // the banks that the step before does not take
    *reinterpret_cast<uint2*>(column + (odd ? 32 : 0)) = odd ? low : high;
    *reinterpret_cast<uint2*>(column + (odd ? 0 : 32)) = odd ? high : low;
    if (t == 0 && step % kGroupSteps == 0)
      to.groups[token * to.groups_of_token + (chunk * kBlocks + block) * 4 + of_four] =
          make_float2(most * (1.0f / 32512.0f), static_cast<float>(sum));
  };
  // No row ends within what a lane loads, and nothing but the form stands between it and its integers.
  const bool whole = in % 8 == 0 && column_scales == nullptr;
  for (int token = 0; token < to.tokens; ++token) {
    float square = 0;
    if (whole) {
#pragma unroll 1
      for (int first = warp; first < halves; first += kBatch * warps) {
        RawInputs<T, kForm> raw[kBatch];
#pragma unroll
        for (int n = 0; n < kBatch; ++n) {
          const int half = first + n * warps, at = input_of(half);
          raw[n] = {};
          if (half >= halves || at >= in) continue;
          __builtin_assume(in - at >= 8);
          raw[n].load(input, in, token, at);
        }
#pragma unroll
        for (int n = 0; n < kBatch; ++n) {
          if (first + n * warps >= halves) break;
          float v[8];
          raw[n].form(v, square);
          put(v, token, first + n * warps);
        }
      }
    } else {
      // In little code, one after the other: code that is never run costs time too where it stands between.
#pragma unroll 1
      for (int half = warp; half < halves; half += warps) {
        RawInputs<T, kForm> raw;
        float v[8];
        raw.load(input, in, token, input_of(half));
        raw.form(v, square);
        if (column_scales != nullptr) {
#pragma unroll
          for (int i = 0; i < 8; ++i)
            if (const int at = input_of(half) + i; at < in) v[i] *= float_of_half(column_scales[at]);
        }
        put(v, token, half);
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
