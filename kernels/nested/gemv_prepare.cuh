// What of a unit is asked for and made before it is multiplied, of a single token or of several.
#pragma once

#include "kernels/nested/gemv_inputs.cuh"
#include "kernels/nested/gemv_multiply.cuh"
#include "kernels/nested/gemv_token_inputs.cuh"
#include "kernels/nested/gemv_token_integers.cuh"

namespace grinqh::cuda::nested {

template <class S>
using ChannelsOf = std::conditional_t<S::kTokens == 1, LaneChannels<S>, TokenChannels>;

#if __CUDA_ARCH__ >= 900
// What can be asked for before the inputs are there: scales and minima of the first unit, thresholds, rows
// that do not depend on the inputs.
template <class S>
__device__ void begin_run(const Problem& p, const Warp<S>& warp, const Unit& unit, Ring<S>& ring) {
  copy_grids<S>(p, warp, unit, 0);
  if (graded<S>(p, unit.layer)) bring_steps(p, warp, unit);
  count_unlisted(p, warp, unit, 0, planes_ahead<S>(p, unit));
  __syncwarp();
  ring.enter(unit, 0);
  if constexpr (S::kMany) {
    ring.fill();
  } else {
    ring.fill_slowly();
    if constexpr (!S::kSkips) ring.bring_ahead();  // what may be left out is not brought
  }
  __syncwarp();  // counts have been read where the list's are written
}

// A unit's channels, when its inputs are there. first: rows of it are under way. Of several tokens they lie
// in the warp's memory.
template <class S>
__device__ ChannelsOf<S> take_unit(const Problem& p, const Warp<S>& warp, const Unit& unit, int turn,
                                   bool first, const TokenFactors<S>& factors,
                                   const NormWeights<S>& weights) {
  if constexpr (S::kTokens > 1) {
    take_tokens<S>(p, warp, unit, turn, first, factors, weights);
    return {};
  } else {
    if (graded<S>(p, unit.layer)) return take_graded<S>(p, warp, unit, turn, first, factors, weights);
    if (!first) count_unlisted(p, warp, unit, turn, planes_ahead<S>(p, unit));
    return take_alike(p, warp, unit, factors, weights);
  }
}

// What of the next unit can be asked for and made while one is multiplied. False if there is none.
template <class S>
__device__ bool prepare_next(const Problem& p, const Warp<S>& warp, int turn,
                             const TokenFactors<S>& factors) {
  const Unit unit = warp.unit(turn), next = unit_after<S>(p, unit);
  if (warp.lane == 0) warp.unit(turn ^ 1) = next;
  if (!next.exists()) return false;
  copy_grids<S>(p, warp, next, turn ^ 1);
  if constexpr (S::kTokens > 1) request_tokens(p, warp, next);
  NormWeights<S> weights;
  weights.load(p, warp, next);
  if (graded<S>(p, next.layer)) bring_steps(p, warp, next);
  warp.put_aside(take_unit<S>(p, warp, next, turn ^ 1, false, factors, weights));
  __syncwarp();
  return true;
}

// Integers of a unit; adds what does not depend on the digits. Returns what an integer of this lane's token
// stands for.
template <class S>
__device__ float prepare_unit(const Problem& p, const Warp<S>& warp, const ChannelsOf<S>& channels, int count,
                              int turn, OutputsOf<S>& y) {
  if constexpr (S::kTokens > 1) {
    return make_token_integers(p, warp, count, turn, y);
  } else {
    const Factors<S> made = make_integers<S>(p, warp, channels, count, turn);
    y.add_middles(made, warp.lane, warp.grids(turn));
    return made.unit;
  }
}
#endif

}  // namespace grinqh::cuda::nested
