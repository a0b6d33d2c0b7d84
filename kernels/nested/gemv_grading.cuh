// What is read of channels, by the magnitudes of their inputs.
#pragma once

#include "kernels/nested/gemv_warp.cuh"

namespace grinqh::cuda::nested {

constexpr int kStepsAtOnce = 3;  // compared without asking whether they exist

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
  const int number = warp.lane, count = rule.count - 1;
  if (number < max(count, kStepsAtOnce)) {
    Step step{0, p.steps[unit.layer][min(number, count - 1) + 1]};
    // Nothing passes a step that does not exist but what is no number, and that is read as by the last.
    if (rule.shared) step.threshold = number < count ? rule.thresholds[number] : HUGE_VALF;
    warp.step(number) = step;
  }
  if (!rule.shared && number * S::kLane < unit.channels)
    for (int each = 0; each < count; ++each)
      asm volatile("prefetch.global.L2 [%0];" ::"l"(thresholds_of<S>(p, rule, unit, each, warp.lane))
                   : "memory");
  __syncwarp();
}

// What of a token's channels in a lane is read, as Problem has steps. Thresholds ascend from step to step;
// what is no number is read, so that it shows.
template <class S>
__device__ inline void grade_channels(const Problem& p, const Warp<S>& warp, const Unit& unit,
                                      const float (&x)[S::kLane], uint32_t (&read)[S::kLane]) {
  const GradingRule& rule = p.readings[unit.layer].rule;
  const uint32_t lowest = p.steps[unit.layer][0];
#pragma unroll
  for (int i = 0; i < S::kLane; ++i) read[i] = lowest;
  const auto compare = [&](int i, float threshold, const Step& step) {
    if (!(fabsf(x[i]) <= threshold)) read[i] = step.read;
  };
  if (rule.shared) {
    const auto compare_all = [&](int number) {
      const Step step = warp.step(number);
#pragma unroll
      for (int i = 0; i < S::kLane; ++i) compare(i, step.threshold, step);
    };
#pragma unroll
    for (int number = 0; number < kStepsAtOnce; ++number) compare_all(number);
#pragma unroll 1
    for (int number = kStepsAtOnce; number + 1 < rule.count; ++number) compare_all(number);
  } else {
    const int last = p.w.order.in - 1 - (unit.first + warp.lane * S::kLane);
#pragma unroll 1
    for (int number = 0; number + 1 < rule.count; ++number) {
      const Step step = warp.step(number);
      const float* thresholds = thresholds_of<S>(p, rule, unit, number, warp.lane);
#pragma unroll
      for (int i = 0; i < S::kLane; ++i) compare(i, thresholds[min(i, last)], step);
    }
  }
}

}  // namespace grinqh::cuda::nested
