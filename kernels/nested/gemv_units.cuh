// A warp's run of channels, unit by unit.
#pragma once

#include "kernels/nested/gemv_plan.cuh"

namespace grinqh::cuda::nested {

// Channels first .. first + channels - 1 of a tile; none: there is no such unit. left: of the run from
// `first` on, with what a tile's last quantum has beyond its channels.
struct Unit {
  int tile, first, channels, left, layer;

  __device__ bool exists() const { return channels > 0; }
};

// Not before layer `from`.
__device__ inline int layer_of(const Problem& p, int tile, int from) {
  while (tile >= p.w.first_tile[from + 1]) ++from;
  return from;
}

template <class S>
__device__ inline Unit unit_at(const Problem& p, const NestedRun& run, int layer) {
  int channels = min(min(p.schedule.unit, run.left), p.w.order.in - run.first);
  if (S::kByInput) channels = min(channels, p.w.group - run.first % p.w.group);
  return {run.tile, run.first, channels, run.left, layer};
}
template <class S>
__device__ inline Unit unit_after(const Problem& p, const Unit& unit) {
  const int next = unit.first + unit.channels;
  if (next < p.w.order.in) return unit_at<S>(p, {unit.tile, next, unit.left - unit.channels}, unit.layer);
  constexpr int kQuantum = NestedRuns::kQuantum;
  const int padded = (p.w.order.in + kQuantum - 1) / kQuantum * kQuantum;
  const NestedRun run{unit.tile + 1, 0, unit.left - (padded - unit.first)};
  return unit_at<S>(p, run, run.left > 0 ? layer_of(p, run.tile, unit.layer) : unit.layer);
}
// Of a warp of the launch.
template <class S>
__device__ inline Unit first_unit(const Problem& p, int warp) {
  const NestedRun run = p.schedule.runs.of(warp);
  return unit_at<S>(p, run, run.left > 0 ? layer_of(p, run.tile, 0) : 0);
}

// Else all channels are read alike, in their order.
template <class S>
__device__ inline bool graded(const Problem& p, int layer) {
  return S::kGrades && p.readings[layer].rule.count > 0;
}

}  // namespace grinqh::cuda::nested
