// What a warp does: its run, unit by unit. The next unit is graded, listed and asked for while one is
// multiplied.
#pragma once

#include "cuda/launch.cuh"
#include "kernels/nested/gemv_finish.cuh"
#include "kernels/nested/gemv_prepare.cuh"

namespace grinqh::cuda::nested {

#if __CUDA_ARCH__ >= 900
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
  if constexpr (S::kTokens > 1)
    if (first.exists()) request_tokens(p, warp, first);
  const TokenFactors<S> factors = token_factors<S>(p, shared);
  OutputsOf<S> y;
  y.clear();
  if (first.exists()) {
    ChannelsOf<S> channels = take_unit<S>(p, warp, first, 0, true, factors, weights);
    if (graded<S>(p, first.layer)) {
      ring.go_on();
      ring.fill();
    }
    if constexpr (S::kMany) {
      if (lane == 0) warp.unit(0) = first;
      __syncwarp();
    }
    int turn = 0, count = first.channels;
    uint32_t phase = 0;
    for (bool more = true; more; phase ^= 1) {
      wait_barrier(warp.grids_barrier(), phase);
      const bool read = warp.count(turn, 0) > 0;
      float unit = 0;
      if (read) unit = prepare_unit<S>(p, warp, channels, count, turn, y);
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
        multiply_digits<S>(p, warp, turn, ring, fetch, unit, y);
        if constexpr (S::kTables) multiply_tables<S>(p, warp, turn, ring, fetch, unit, y);
      }
      if constexpr (S::kMany) {
        if (!more) break;
        turn ^= 1;
        const Unit& next = warp.unit(turn);
        if (!entered) ring.enter(next, turn);
        ring.fill();
        if (next.first == 0) {
          const int of_block = p.schedule.runs.of(static_cast<int>(blockIdx.x) * S::kWarps).tile;
          y.leave(block.passed(p, next.tile - 1 - of_block), lane);
          y.clear();
        }
        warp.take_back(channels);
        count = next.channels;
      }
    }
  }
  __syncwarp();
  y.leave(warp.memory, lane);
  __syncthreads();
  finish_tiles(block);
}
#endif

}  // namespace grinqh::cuda::nested
