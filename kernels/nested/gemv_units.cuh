// A warp's channels, unit by unit, neighbours in a lane: graded and listed, and their inputs put aside.
#pragma once

#include "kernels/nested/gemv_channels.cuh"

namespace grinqh::cuda::nested {

// Where a warp's channels lie, and its memory.
struct Warp {
  uint8_t* memory;
  int lane, begin, count;  // channels begin .. begin + count - 1 of the layer
  int layer;
  bool listed;  // else all channels are read alike, in their order

  __device__ float* x(const Problem& p, int token, int unit) const {
    return reinterpret_cast<float*>(memory + p.plan.x) + token * p.padded + unit * p.unit;
  }
  __device__ uint8_t* levels(const Problem& p, int token, int unit) const {
    return memory + p.plan.levels + token * p.padded + unit * p.unit;
  }
  __device__ uint16_t* places(const Problem& p, int unit) const {
    return reinterpret_cast<uint16_t*>(memory + p.plan.places) + unit * p.unit;
  }
  // Several tokens only: planes that a token has of the channel at a place of the list.
  __device__ uint8_t* planes(const Problem& p, int token, int unit) const {
    return memory + p.plan.planes + token * p.padded + unit * p.unit;
  }
  __device__ uint8_t* list(const Problem& p, int unit) const {
    return memory + p.plan.list + unit * p.places;
  }
  __device__ uint16_t* counts(const Problem& p, int unit) const {
    return reinterpret_cast<uint16_t*>(memory + p.plan.counts) + unit * NestedOrder::kMaxPlanes;
  }
  __device__ uint8_t* integers(const Problem& p, int token, int unit) const {
    return memory + p.plan.integers + token * p.plan.integers_stride +
           (p.w.by_input() ? unit * p.places * 2 : 0);
  }
  __device__ int channels(const Problem& p, int unit) const { return min(p.unit, count - unit * p.unit); }
  // Channels of a unit that have the plane.
  __device__ int count_of(const Problem& p, int unit, int plane) const {
    if (plane >= p.w.order.planes) return 0;
    if (listed) return counts(p, unit)[plane];
    return plane < p.planes_at[layer][0] ? channels(p, unit) : 0;
  }
};

// The levels of a token's channels in a lane, of which the first `valid` exist, and the planes that they
// have. Thresholds ascend from step to step; what is no number is read, so that it shows.
template <class S>
__device__ inline void grade_channels(const Problem& p, const Warp& warp, const Thresholds& thresholds,
                                      bool first_unit, int at, int channel, int valid,
                                      const float (&x)[S::kLane], int (&levels)[S::kLane],
                                      int (&planes)[S::kLane]) {
  const NestedReading& reading = p.readings[warp.layer];
  const GradingRule& rule = reading.rule;
  const int base = rule.count > 0 ? rule.levels[0] : reading.level, base_planes = p.planes_at[warp.layer][0];
#pragma unroll
  for (int i = 0; i < S::kLane; ++i) {
    levels[i] = i < valid ? base : 0;
    planes[i] = i < valid ? base_planes : 0;
  }
#pragma unroll 1
  for (int number = 0; number + 1 < rule.count; ++number) {
    const int next = rule.levels[number + 1], count = p.planes_at[warp.layer][number + 1];
    thresholds.at<S::kLane>(p, rule, number, first_unit, at, channel, [&](const auto& threshold) {
#pragma unroll
      for (int i = 0; i < S::kLane; ++i)
        if (i < valid && !(fabsf(x[i]) <= threshold(i))) {
          levels[i] = next;
          planes[i] = count;
        }
    });
  }
}

template <class S>
__device__ void take_inputs(const Problem& p, const Warp& warp, const float* factors,
                            const Thresholds& thresholds) {
  constexpr int kLane = S::kLane, kWhole = S::kTables ? NestedOrder::kStep : 1;
#pragma unroll 1
  for (int unit = 0; unit * p.unit < warp.count; ++unit) {
    const int at = warp.lane * kLane, channel = warp.begin + unit * p.unit + at;
    const int valid = max(0, min(kLane, warp.channels(p, unit) - at));
    int planes[S::kTokens][kLane], most[kLane] = {}, places[kLane];
#pragma unroll
    for (int t = 0; t < S::kTokens; ++t) {
      float x[kLane] = {};
      int levels[kLane];
      const bool present = valid > 0 && (S::kTokens == 1 || t < p.tokens);
      if (present) inputs_at<S>(p, t, channel, factors, x);
      grade_channels<S>(p, warp, thresholds, unit == 0, at, channel, present ? valid : 0, x, levels,
                        planes[t]);
      uint32_t packed[kLane / 4] = {};
#pragma unroll
      for (int i = 0; i < kLane; ++i) {
        most[i] = max(most[i], planes[t][i]);
        if (levels[i] == 0) x[i] = 0;
        packed[i / 4] |= static_cast<uint32_t>(levels[i]) << 8 * (i % 4);
      }
      if (at < p.unit) {
#pragma unroll
        for (int i = 0; i < kLane / 4; ++i) {
          reinterpret_cast<float4*>(warp.x(p, t, unit) + at)[i] =
              make_float4(x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]);
          reinterpret_cast<uint32_t*>(warp.levels(p, t, unit) + at)[i] = packed[i];
        }
      }
    }
    if (warp.listed) {
      if constexpr (S::kTables) {  // places that no channel takes are fetched too
        for (int place = warp.lane; place < p.places; place += 32) warp.list(p, unit)[place] = 0;
        __syncwarp();
      }
      if (p.w.order.planes <= 4)
        place_channels<uint32_t, kWhole>(most, p.w.order.planes, warp.lane, places, warp.counts(p, unit));
      else
        place_channels<uint64_t, kWhole>(most, p.w.order.planes, warp.lane, places, warp.counts(p, unit));
    } else {
#pragma unroll
      for (int i = 0; i < kLane; ++i) places[i] = most[i] > 0 ? at + i : -1;
    }
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      if (places[i] < 0) continue;
      if (warp.listed) warp.list(p, unit)[places[i]] = static_cast<uint8_t>(at + i);
      if constexpr (S::kTokens > 1) {
#pragma unroll
        for (int t = 0; t < S::kTokens; ++t)
          warp.planes(p, t, unit)[places[i]] = static_cast<uint8_t>(planes[t][i]);
      }
    }
    if (at < p.unit)
#pragma unroll
      for (int i = 0; i < kLane / 2; ++i)
        reinterpret_cast<uint32_t*>(warp.places(p, unit) + at)[i] =
            static_cast<uint32_t>(places[2 * i] & 0xffff) | static_cast<uint32_t>(places[2 * i + 1]) << 16;
  }
  __syncwarp();
}

}  // namespace grinqh::cuda::nested
