// What a warp does: its run, unit by unit. The next unit is graded, listed and asked for while one is
// multiplied.
#pragma once

#include "cuda/launch.cuh"
#include "kernels/nested/gemv_factors.cuh"
#include "kernels/nested/gemv_finish.cuh"
#include "kernels/nested/gemv_multiply.cuh"

namespace grinqh::cuda::nested {

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

// The first unit, when the inputs are there.
template <class S>
__device__ LaneChannels<S> begin_unit(const Problem& p, const Warp<S>& warp, const Unit& unit, Ring<S>& ring,
                                      const TokenFactors<S>& factors, const NormWeights<S>& weights) {
  if (!graded<S>(p, unit.layer)) return take_alike(p, warp, unit, factors, weights);
  const LaneChannels<S> channels = take_graded<S>(p, warp, unit, 0, true, factors, weights);
  ring.go_on();
  ring.fill();
  return channels;
}

// What of the next unit can be asked for and made while one is multiplied. False if there is none.
template <class S>
__device__ bool prepare_next(const Problem& p, const Warp<S>& warp, int turn,
                             const TokenFactors<S>& factors) {
  const Unit unit = warp.unit(turn), next = unit_after<S>(p, unit);
  if (warp.lane == 0) warp.unit(turn ^ 1) = next;
  if (!next.exists()) return false;
  copy_grids<S>(p, warp, next, turn ^ 1);
  NormWeights<S> weights;
  weights.load(p, warp, next);
  if (graded<S>(p, next.layer)) {
    bring_steps(p, warp, next);
    warp.put_aside(take_graded<S>(p, warp, next, turn ^ 1, false, factors, weights));
  } else {
    count_unlisted(p, warp, next, turn ^ 1, planes_ahead<S>(p, next));
    warp.put_aside(take_alike(p, warp, next, factors, weights));
  }
  __syncwarp();
  return true;
}

// Integers of a unit; adds what does not depend on the digits. units: what an integer stands for.
template <class S>
__device__ void prepare_unit(const Problem& p, const Warp<S>& warp, const LaneChannels<S>& channels,
                             int count, int turn, float (&units)[S::kTokens], Outputs<S>& y) {
#pragma unroll
  for (int t = 0; t < S::kTokens; ++t) {
    const Factors<S> made = make_integers<S>(p, warp, channels, count, turn, t);
    units[t] = made.unit;
    add_middles<S>(made, warp.lane, warp.grids(turn), y.of[t]);
  }
}

template <class S>
__device__ void run_units(const Problem& p, uint8_t* shared) {
  const int lane = threadIdx.x % 32, in_block = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
  const Warp<S> warp{shared + in_block * WarpMemory<S>::kBytes, lane};
  init_barriers(warp);
  const Unit first = first_unit<S>(p, static_cast<int>(blockIdx.x) * S::kWarps + in_block);
  Ring<S> ring(p, warp);
  NormWeights<S> weights;
  if (first.exists()) {
    begin_run<S>(p, warp, first, ring);
    weights.load(p, warp, first);
  }
  const BlockView<S> block{shared};
  block.prepare(p);
  touch(p.input);
  wait_for_inputs();
  const TokenFactors<S> factors = token_factors<S>(p, shared);
  Outputs<S> y;
  y.clear();
  if (first.exists()) {
    LaneChannels<S> channels = begin_unit<S>(p, warp, first, ring, factors, weights);
    if constexpr (S::kMany) {
      if (lane == 0) warp.unit(0) = first;
      __syncwarp();
    }
    int turn = 0, count = first.channels;
    uint32_t phase = 0;
    for (bool more = true; more; phase ^= 1) {
      wait_barrier(warp.grids_barrier(), phase);
      const bool read = warp.count(turn, 0) > 0;
      float units[S::kTokens];
      if (read) prepare_unit<S>(p, warp, channels, count, turn, units, y);
      __syncwarp();
      more = false;
      if constexpr (S::kMany) more = prepare_next<S>(p, warp, turn, factors);
      bool entered = !more;
      const auto fetch = [&] {
        ring.release();
        if (S::kMany && ring.has_all() && !entered) {
          ring.enter(warp.unit(turn ^ 1), turn ^ 1);
          entered = true;
        }
        ring.fetch_one();
      };
      if (read) {
        multiply_digits<S>(p, warp, turn, ring, fetch, units, y);
        if constexpr (S::kTables) multiply_tables<S>(p, warp, turn, ring, fetch, units[0], y.of[0]);
      }
      if constexpr (S::kMany) {
        if (!more) break;
        turn ^= 1;
        const Unit& next = warp.unit(turn);
        if (!entered) ring.enter(next, turn);
        ring.fill();
        if (next.first == 0) {
          const int of_block = p.schedule.runs.of(static_cast<int>(blockIdx.x) * S::kWarps).tile;
          leave_sums(y, block.passed(p, next.tile - 1 - of_block), lane);
          y.clear();
        }
        channels = warp.take_back();
        count = next.channels;
      }
    }
  }
  __syncwarp();
  leave_sums(y, warp.memory, lane);
  __syncthreads();
  finish_tiles(block);
}
#endif

}  // namespace grinqh::cuda::nested
