// Inputs of several tokens as integers (gemv_integers.cuh), column by column of scales, places in the order
// of token_place(). The bit that makes low bytes signed is left to those who read them.
#pragma once

#include "kernels/nested/gemv_integers.cuh"
#include "kernels/nested/gemv_token_outputs.cuh"

namespace grinqh::cuda::nested {

// Scales and minima of a lane's channels, the same for all tokens; zeros where no channel is.
template <class S>
struct LaneGrids {
  float scale[S::kLane][S::kColumns], minimum[S::kLane][S::kColumns];

  __device__ LaneGrids(const uint32_t* grids, bool exists) {
    constexpr int kColumns = S::kColumns;
#pragma unroll
    for (int i = 0; i < S::kLane; ++i)
#pragma unroll
      for (int j = 0; j < kColumns; ++j) scale[i][j] = S::kByInput ? 1.0f : 0.0f, minimum[i][j] = 0;
    if (S::kByInput || !exists) return;
    const auto* fours = reinterpret_cast<const uint4*>(grids);
#pragma unroll
    for (int at = 0; at < S::kLane * kColumns; at += 4) {
      const uint4 g = fours[at / 4];
      const uint32_t of[4] = {g.x, g.y, g.z, g.w};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        scale[(at + k) / kColumns][(at + k) % kColumns] = scale_of(of[k]);
        minimum[(at + k) / kColumns][(at + k) % kColumns] = minimum_of(of[k]);
      }
    }
  }
};

// This lane's parts of a token's sums, in the place of its inputs, which have been read.
template <class S>
__device__ inline void put_parts(const Warp<S>& warp, int token, const Factors<S>& factors) {
  auto* parts = reinterpret_cast<float*>(warp.inputs(token));
#pragma unroll
  for (int j = 0; j < S::kColumns; ++j) parts[j] = factors.middles[j];
  if constexpr (S::kByInput) parts[1] = factors.inputs;
}
// The sums of this lane's token over all lanes, which have put their parts of all tokens.
template <class S>
__device__ inline Factors<S> sum_of_parts(const Warp<S>& warp) {
  Factors<S> sums;
  const auto* parts =
      reinterpret_cast<const float*>(warp.inputs(warp.lane % S::kTokens)) - warp.lane % S::kTokens * S::kLane;
#pragma unroll
  for (int i = 0; i < S::kTokens; ++i) {
#pragma unroll
    for (int j = 0; j < S::kColumns; ++j) sums.middles[j] += parts[i * S::kLane + j];
    if constexpr (S::kByInput) sums.inputs += parts[i * S::kLane + 1];
  }
  const auto over_lanes = [](float& value) {
#pragma unroll
    for (int other = S::kTokens; other < 32; other *= 2) value += __shfl_xor_sync(0xffffffffu, value, other);
  };
#pragma unroll
  for (float& each : sums.middles) over_lanes(each);
  if constexpr (S::kByInput) over_lanes(sums.inputs);
  return sums;
}

// Makes the integers of a unit of `count` channels and all tokens; adds what does not depend on the digits.
// In the order of the channels, integers beyond them are zeros. Returns what an integer of this lane's token
// stands for.
template <class S>
__device__ float make_token_integers(const Problem& p, const Warp<S>& warp, int count, int turn,
                                     TokenOutputs<S>& y) {
  constexpr int kColumns = S::kColumns, kLane = S::kLane;
  const LaneGrids<S> grids(warp.grids(turn) + warp.lane * kLane * kColumns, warp.lane * kLane < count);
  const bool in_order = warp.unlisted(turn) > 0;
  // Where they go: in the order of the channels, four at a time, and in that of the list.
  uint32_t ordered[4], listed[kLane];
#pragma unroll
  for (int i = 0; i < 4; ++i) ordered[i] = token_place(static_cast<uint32_t>(warp.lane * kLane + i));
  bool is_listed[kLane];
#pragma unroll
  for (int i = 0; i < kLane; i += 4) unpack(warp.places_at()[i / 4], i, listed);
#pragma unroll
  for (int i = 0; i < kLane; ++i) is_listed[i] = listed[i] != kUnlisted, listed[i] = token_place(listed[i]);
  float unit = 0;
#pragma unroll 1
  for (int t = 0; t < p.tokens; ++t) {
    float x[kLane];
    uint32_t read[kLane];
#pragma unroll
    for (int i = 0; i < kLane; i += 4) {
      const float4 four = warp.inputs(t)[i / 4];
      x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
      unpack(warp.read_at(t)[i / 4], i, read);
    }
    Factors<S> factors;
    float values[kLane][kColumns];
    uint32_t most = 0;  // of |value| as bits: what is no number is more than any
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      const float half = half_cell(read[i] & 15u);
      if constexpr (S::kByInput) factors.inputs += x[i];
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        values[i][j] = x[i] * grids.scale[i][j];
        factors.middles[j] =
            fmaf(x[i], fmaf(grids.scale[i][j], half, grids.minimum[i][j]), factors.middles[j]);
        most = max(most, __float_as_uint(fabsf(values[i][j])));
      }
    }
    const float largest = __uint_as_float(__reduce_max_sync(0xffffffffu, most));
    const float inverse = largest > 1e-30f ? __fdividef(kMost, largest) : 0.0f;
    auto* of_unit = reinterpret_cast<uint16_t*>(warp.integers(false, t));
    auto* of_list = reinterpret_cast<uint16_t*>(warp.integers(true, t));
    uint8_t* planes = warp.planes(t);
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      if (is_listed[i]) planes[listed[i]] = static_cast<uint8_t>(read[i] >> 4);
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        const auto integer = static_cast<uint16_t>(__float_as_uint(fmaf(values[i][j], inverse, kRounding)));
        if (in_order) of_unit[j * S::kPlaces + ordered[i % 4] + i / 4] = integer;
        if (is_listed[i]) of_list[j * S::kPlaces + listed[i]] = integer;
      }
    }
    if (t == warp.lane % S::kTokens) unit = largest * (1.0f / kMost);
    put_parts(warp, t, factors);
  }
  __syncwarp();
  y.add_middles(sum_of_parts(warp), warp.lane, warp.grids(turn));
  return unit;
}

}  // namespace grinqh::cuda::nested
