// What is read of channels, by the magnitudes of their inputs.
#pragma once

#include "kernels/nested/gemv_units.cuh"

namespace grinqh::cuda::nested {

// Of channel `unit.first + lane's first + i`, up to the layer's last.
template <class S>
__device__ inline const float* thresholds_of(const Problem& p, const GradingRule& rule, const Unit& unit,
                                             int number, int lane) {
  return rule.thresholds + int64_t{number} * p.w.order.in + unit.first + lane * S::kLane;
}

// Brings what grade_channels() compares with, before the inputs are there: of a unit that is graded.
// Thresholds that channels do not share come to the second cache only.
template <class S>
__device__ inline void bring_steps(const Problem& p, const Warp<S>& warp, const Unit& unit) {
  const GradingRule& rule = p.readings[unit.layer].rule;
  if (warp.lane + 1 < rule.count)
    warp.step(warp.lane) = {rule.shared ? rule.thresholds[warp.lane] : 0.0f,
                            p.steps[unit.layer][warp.lane + 1]};
  if (!rule.shared && warp.lane * S::kLane < unit.channels)
    for (int number = 0; number + 1 < rule.count; ++number)
      asm volatile("prefetch.global.L2 [%0];" ::"l"(thresholds_of<S>(p, rule, unit, number, warp.lane))
                   : "memory");
  __syncwarp();
}

// What of a token's channels in a lane is read, as Problem has steps. Thresholds ascend from step to step;
// what is no number is read, so that it shows.
template <class S>
__device__ inline void grade_channels(const Problem& p, const Warp<S>& warp, const Unit& unit,
                                      const float (&x)[S::kLane], uint32_t (&read)[S::kLane]) {
  const GradingRule& rule = p.readings[unit.layer].rule;
  const int last = p.w.order.in - 1 - (unit.first + warp.lane * S::kLane);
  const uint32_t lowest = p.steps[unit.layer][0];
#pragma unroll
  for (int i = 0; i < S::kLane; ++i) read[i] = lowest;
  const auto compare = [&](int number) {
    const Step step = warp.step(number);
#pragma unroll
    for (int i = 0; i < S::kLane; ++i) {
      const float threshold =
          rule.shared ? step.threshold : thresholds_of<S>(p, rule, unit, number, warp.lane)[min(i, last)];
      if (!(fabsf(x[i]) <= threshold)) read[i] = step.read;
    }
  };
#pragma unroll
  for (int number = 0; number < 3; ++number)
    if (number + 1 < rule.count) compare(number);
#pragma unroll 1
  for (int number = 3; number + 1 < rule.count; ++number) compare(number);
}

}  // namespace grinqh::cuda::nested
