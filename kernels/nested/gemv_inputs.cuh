// A unit's channels, neighbours in a lane: graded and listed.
#pragma once

#include "cuda/gemv_operands.cuh"
#include "kernels/nested/gemv_channels.cuh"
#include "kernels/nested/gemv_grading.cuh"

namespace grinqh::cuda::nested {

// A lane's inputs of a token.
template <class S>
__device__ inline void inputs_at(const Problem& p, int token, int channel, const float* factors,
                                 float (&x)[S::kLane]) {
  const float factor = p.input.form == GemvInput::Form::rms_norm ? factors[token] : 1.0f;
  if (p.input.x.type == Type::bf16)
    load_inputs<__nv_bfloat16>(p.input, p.w.order.in, token, channel / S::kLane, factor, x);
  else
    load_inputs<float>(p.input, p.w.order.in, token, channel / S::kLane, factor, x);
}

// Makes the unit's list. places: of this lane's channels, -1 where nothing is read; planes: that are read.
template <class S>
__device__ inline void list_channels(const Problem& p, const Warp<S>& warp, int turn,
                                     const int (&planes)[S::kLane], int (&places)[S::kLane]) {
  uint8_t* list = warp.list(turn);
  if constexpr (S::kTables) {  // places that no channel takes are fetched too
    for (int place = warp.lane; place < S::kPlaces; place += 32) list[place] = 0;
    __syncwarp();
  }
  const int most = p.w.order.planes;
  if (!S::kSingles || most <= 4)
    place_channels<S, uint32_t>(planes, most, warp.lane, places, warp.counts(turn));
  else
    place_channels<S, uint64_t>(planes, most, warp.lane, places, warp.counts(turn));
#pragma unroll
  for (int i = 0; i < S::kLane; ++i)
    if (places[i] >= 0) list[places[i]] = static_cast<uint8_t>(warp.lane * S::kLane + i);
}

// Of a unit of which all channels are read alike: how many have each plane.
template <class S>
__device__ inline void count_alike(const Problem& p, const Warp<S>& warp, const Unit& unit, int turn) {
  if (warp.lane <= NestedOrder::kMaxPlanes)
    warp.counts(turn)[warp.lane] =
        static_cast<uint8_t>(warp.lane < p.steps[unit.layer][0] >> 8 ? unit.channels : 0);
}

// Inputs of a unit of which all channels are read alike.
template <class S>
__device__ LaneChannels<S> take_alike(const Problem& p, const Warp<S>& warp, const Unit& unit, int turn,
                                      const float* factors) {
  LaneChannels<S> channels;
  const int at = warp.lane * S::kLane, valid = unit.channels - at;
  const uint32_t level = p.steps[unit.layer][0] & 255u, planes = p.steps[unit.layer][0] >> 8;
#pragma unroll
  for (int t = 0; t < S::kTokens; ++t) {
    auto& x = channels.x[t];
#pragma unroll
    for (int i = 0; i < S::kLane; ++i) x[i] = 0;
    if (valid > 0 && level > 0 && (S::kTokens == 1 || t < p.tokens)) {
      inputs_at<S>(p, t, unit.first + at, factors, x);
#pragma unroll
      for (int i = 0; i < S::kLane; ++i)
        if (i >= valid) x[i] = 0;
    }
    for (uint32_t& word : channels.levels[t]) word = level * 0x01010101u;
  }
#pragma unroll
  for (int i = 0; i < S::kLane / 4; ++i) channels.places[i] = 0x03020100u + (at + 4 * i) * 0x01010101u;
  if constexpr (S::kTokens > 1) {
#pragma unroll
    for (int i = 0; i < S::kLane; ++i)
#pragma unroll
      for (int t = 0; t < S::kTokens; ++t)
        warp.planes(t, turn)[at + i] = static_cast<uint8_t>(t < p.tokens ? planes : 0);
    __syncwarp();
  }
  return channels;
}

// Inputs of a unit whose channels are graded; makes its list.
template <class S>
__device__ LaneChannels<S> take_graded(const Problem& p, const Warp<S>& warp, const Unit& unit, int turn,
                                       const float* factors) {
  LaneChannels<S> channels;
  const int at = warp.lane * S::kLane, valid = unit.channels - at;
  int planes[S::kTokens][S::kLane], most[S::kLane] = {};
#pragma unroll
  for (int t = 0; t < S::kTokens; ++t) {
    auto& x = channels.x[t];
    uint32_t read[S::kLane] = {};
#pragma unroll
    for (int i = 0; i < S::kLane; ++i) x[i] = 0;
    if (valid > 0 && (S::kTokens == 1 || t < p.tokens)) {
      inputs_at<S>(p, t, unit.first + at, factors, x);
      grade_channels(p, warp, unit, x, read);
    }
    for (uint32_t& word : channels.levels[t]) word = 0;
#pragma unroll
    for (int i = 0; i < S::kLane; ++i) {
      if (i >= valid) read[i] = 0;
      if (read[i] == 0) x[i] = 0;
      planes[t][i] = static_cast<int>(read[i] >> 8);
      most[i] = max(most[i], planes[t][i]);
      channels.levels[t][i / 4] |= (read[i] & 255u) << 8 * (i % 4);
    }
  }
  int places[S::kLane];
  list_channels(p, warp, turn, most, places);
  for (uint32_t& word : channels.places) word = 0;
#pragma unroll
  for (int i = 0; i < S::kLane; ++i) {
    channels.places[i / 4] |= (static_cast<uint32_t>(places[i]) & 255u) << 8 * (i % 4);
    if constexpr (S::kTokens > 1)
      if (places[i] >= 0)
#pragma unroll
        for (int t = 0; t < S::kTokens; ++t)
          warp.planes(t, turn)[places[i]] = static_cast<uint8_t>(planes[t][i]);
  }
  __syncwarp();
  return channels;
}

template <class S>
__device__ LaneChannels<S> take_channels(const Problem& p, const Warp<S>& warp, const Unit& unit, int turn,
                                         const float* factors) {
  return graded(p, unit.layer) ? take_graded(p, warp, unit, turn, factors)
                               : take_alike(p, warp, unit, turn, factors);
}

}  // namespace grinqh::cuda::nested
