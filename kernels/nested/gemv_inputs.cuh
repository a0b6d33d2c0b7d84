// A unit's channels of a single token, neighbours in a lane: graded and listed.
#pragma once

#include "cuda/gemv_operands.cuh"
#include "kernels/nested/gemv_lists.cuh"

namespace grinqh::cuda::nested {

// A lane's inputs.
template <class S>
__device__ inline void inputs_at(const Problem& p, int channel, float factor, const NormWeights<S>& weights,
                                 float (&x)[S::kLane]) {
  const auto load = [&]<class T>(T) {
    load_inputs<T>(p.input, p.w.order.in, 0, channel / S::kLane, factor, weights.of, x);
  };
  if (p.input.x.type == Type::bf16)
    load(__nv_bfloat16());
  else
    load(float());
}

// Inputs of a unit of which all channels are read alike.
template <class S>
__device__ LaneChannels<S> take_alike(const Problem& p, const Warp<S>& warp, const Unit& unit,
                                      const TokenFactors<S>& factors, const NormWeights<S>& weights) {
  LaneChannels<S> channels;
  const int at = warp.lane * S::kLane, valid = unit.channels - at;
  const uint32_t level = p.steps[unit.layer][0] & 255u;
#pragma unroll
  for (float& each : channels.x) each = 0;
  if (valid > 0 && level > 0) {
    inputs_at<S>(p, unit.first + at, factors.of_single(p), weights, channels.x);
#pragma unroll
    for (int i = 0; i < S::kLane; ++i)
      if (i >= valid) channels.x[i] = 0;
  }
#pragma unroll
  for (int i = 0; i < S::kLane; ++i) {
    channels.levels[i] = level;
    channels.places[i] = S::kTables ? static_cast<uint32_t>(at + i) : kUnlisted;
  }
  return channels;
}

// Inputs of a unit whose channels are graded; makes its list. first: rows of the unit are under way.
template <class S>
__device__ LaneChannels<S> take_graded(const Problem& p, const Warp<S>& warp, const Unit& unit, int turn,
                                       bool first, const TokenFactors<S>& factors,
                                       const NormWeights<S>& weights) {
  LaneChannels<S> channels;
  const int at = warp.lane * S::kLane, valid = unit.channels - at;
  auto& x = channels.x;
  uint32_t read[S::kLane] = {};
#pragma unroll
  for (float& each : x) each = 0;
  if (valid > 0) {
    inputs_at<S>(p, unit.first + at, factors.of_single(p), weights, x);
    grade_channels(p, warp, unit, x, read);
  }
  int planes[S::kLane];
#pragma unroll
  for (int i = 0; i < S::kLane; ++i) {
    if (i >= valid) read[i] = 0;
    if (read[i] == 0) x[i] = 0;
    planes[i] = static_cast<int>(read[i] >> 8);
    channels.levels[i] = read[i] & 255u;
  }
  list_unit(p, warp, unit, turn, first, planes, channels.places);
  __syncwarp();
  return channels;
}

}  // namespace grinqh::cuda::nested
