// A unit's channels, neighbours in a lane: graded and listed.
#pragma once

#include "cuda/gemv_operands.cuh"
#include "kernels/nested/gemv_channels.cuh"
#include "kernels/nested/gemv_factors.cuh"
#include "kernels/nested/gemv_grading.cuh"

namespace grinqh::cuda::nested {

// A lane's inputs of a token.
template <class S>
__device__ inline void inputs_at(const Problem& p, int token, int channel, const TokenFactors<S>& factors,
                                 const NormWeights<S>& weights, float (&x)[S::kLane]) {
  const float factor = factors.of(p, token);
  const auto load = [&]<class T>(T) {
    load_inputs<T>(p.input, p.w.order.in, token, channel / S::kLane, factor, weights.of, x);
  };
  if (p.input.x.type == Type::bf16)
    load(__nv_bfloat16());
  else
    load(float());
}

// Makes the unit's list. places: of this lane's channels; planes: of them that are read.
template <class S>
__device__ inline void list_channels(const Problem& p, const Warp<S>& warp, int turn, int unlisted,
                                     const int (&planes)[S::kLane], uint32_t (&places)[S::kLane]) {
  uint8_t* list = warp.list(turn);
  if constexpr (S::kTables) {  // places that no channel takes are fetched too
    for (int place = warp.lane; place < S::kPlaces; place += 32) list[place] = 0;
    __syncwarp();
  }
  const int most = p.w.order.planes;
  if (!S::kSingles || most <= 4 + unlisted)
    place_channels<S, uint32_t>(planes, most, unlisted, warp.lane, places, warp.counts(turn));
  else
    place_channels<S, uint64_t>(planes, most, unlisted, warp.lane, places, warp.counts(turn));
#pragma unroll
  for (int i = 0; i < S::kLane; ++i)
    if (places[i] != kUnlisted) list[places[i]] = static_cast<uint8_t>(warp.lane * S::kLane + i);
}

// Planes of a unit that are fetched before the inputs are there, of all its channels.
template <class S>
__device__ inline int planes_ahead(const Problem& p, const Unit& unit) {
  if (!graded<S>(p, unit.layer)) return static_cast<int>(p.steps[unit.layer][0] >> 8);
  return S::kTables ? 0 : 1;  // a table's codes are read whole
}

// Counts of a unit, as if it had no list.
template <class S>
__device__ inline void count_unlisted(const Problem& p, const Warp<S>& warp, const Unit& unit, int turn,
                                      int planes) {
  if (warp.lane <= NestedOrder::kMaxPlanes)
    warp.counts(turn)[warp.lane] = static_cast<uint8_t>(warp.lane < planes ? unit.channels : 0);
  if (warp.lane == 0) warp.unlisted(turn) = static_cast<uint8_t>(planes);
}

// Inputs of a unit of which all channels are read alike.
template <class S>
__device__ LaneChannels<S> take_alike(const Problem& p, const Warp<S>& warp, const Unit& unit,
                                      const TokenFactors<S>& factors, const NormWeights<S>& weights) {
  LaneChannels<S> channels;
  const int at = warp.lane * S::kLane, valid = unit.channels - at;
  const uint32_t level = p.steps[unit.layer][0] & 255u;
#pragma unroll
  for (int t = 0; t < S::kTokens; ++t) {
    auto& x = channels.x[t];
#pragma unroll
    for (int i = 0; i < S::kLane; ++i) x[i] = 0;
    if (valid > 0 && level > 0 && (S::kTokens == 1 || t < p.tokens)) {
      inputs_at<S>(p, t, unit.first + at, factors, weights, x);
#pragma unroll
      for (int i = 0; i < S::kLane; ++i)
        if (i >= valid) x[i] = 0;
    }
#pragma unroll
    for (uint32_t& each : channels.levels[t]) each = level;
  }
#pragma unroll
  for (int i = 0; i < S::kLane; ++i)
    channels.places[i] = S::kTables ? static_cast<uint32_t>(at + i) : kUnlisted;
  return channels;
}

// Whether the first plane of all channels may as well be read as of those that have it: one copy brings rows
// of neighbours, each of a list's rows takes four lanes.
template <class S>
__device__ inline bool most_are_read(const Unit& unit, const int (&planes)[S::kLane]) {
  uint32_t read = 0;
#pragma unroll
  for (int i = 0; i < S::kLane; ++i) read += planes[i] > 0 ? 1 : 0;
  return __reduce_add_sync(0xffffffffu, read) * 8 >= static_cast<uint32_t>(unit.channels) * 7;
}

// Inputs of a unit whose channels are graded; makes its list. first: rows of the unit are under way.
template <class S>
__device__ LaneChannels<S> take_graded(const Problem& p, const Warp<S>& warp, const Unit& unit, int turn,
                                       bool first, const TokenFactors<S>& factors,
                                       const NormWeights<S>& weights) {
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
      inputs_at<S>(p, t, unit.first + at, factors, weights, x);
      grade_channels(p, warp, unit, x, read);
    }
#pragma unroll
    for (int i = 0; i < S::kLane; ++i) {
      if (i >= valid) read[i] = 0;
      if (read[i] == 0) x[i] = 0;
      planes[t][i] = static_cast<int>(read[i] >> 8);
      most[i] = max(most[i], planes[t][i]);
      channels.levels[t][i] = read[i] & 255u;
    }
  }
  int unlisted = planes_ahead<S>(p, unit);
  if (!first) {
    if (unlisted > 0 && !most_are_read<S>(unit, most)) unlisted = 0;
    count_unlisted(p, warp, unit, turn, unlisted);
    __syncwarp();
  }
  if constexpr (S::kSkips) {
    uint32_t flags = 0;
#pragma unroll
    for (int i = 0; i < S::kLane; ++i) flags |= most[i] > 0 ? 1u << i : 0u;
    warp.flags()[warp.lane] = static_cast<uint8_t>(flags);
  }
  list_channels(p, warp, turn, unlisted, most, channels.places);
  if constexpr (S::kTokens > 1)
#pragma unroll
    for (int i = 0; i < S::kLane; ++i)
      if (channels.places[i] != kUnlisted)
#pragma unroll
        for (int t = 0; t < S::kTokens; ++t)
          warp.planes(t, turn)[channels.places[i]] = static_cast<uint8_t>(planes[t][i]);
  __syncwarp();
  return channels;
}

}  // namespace grinqh::cuda::nested
