// The kernel of the order in gemv_order.h. A token's work is slots, 32 channels' rows of a digit plane each,
// plane by plane. The integers that stand for x are the same for all planes; between planes the sums are
// raised by what the digits behind are worth less.
#include "cuda/launch.cuh"
#include "kernels/nested/cuda_gemv.h"
#include "kernels/nested/gemv_outputs.cuh"
#include "kernels/nested/gemv_plan.cuh"
#include "kernels/nested/gemv_warp.cuh"

namespace grinqh::cuda {

namespace nested {

#if __CUDA_ARCH__ >= 900

__device__ inline void prefetch(const void* from, int64_t bytes) {
  if (bytes > 0)
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(static_cast<uint32_t>(bytes))
                 : "memory");
}

// Brings to the second cache what this warp will need whatever the inputs are, and rows that it will probably
// need: those of the first plane that depends on them. One lane.
template <class S>
__device__ void prefetch_certain(const Problem& p, const Span& share) {
  if (share.end <= share.begin) return;
  const int layer = layer_of(p.w, share.tile);
  const GradingRule& rule = p.readings[layer].rule;
  const int64_t channels = share.end - share.begin;
  const int64_t part = int64_t{share.tile} * p.w.order.across + share.part;
  if constexpr (S::kByInput) {
    const int first = share.begin / p.w.group, last = min((share.end - 1) / p.w.group, p.w.groups - 1);
    prefetch(p.w.grids + (part * p.w.groups + first) * NestedOrder::kPart,
             int64_t{last - first + 1} * NestedOrder::kPart * 4);
  } else {
    prefetch(p.w.grids + part * p.w.order.padded_in + share.begin, channels * 4);
  }
  if (share.part != 0) return;
  if (!rule.shared && aligned(rule, p.w.order.in))
    for (int step = 0; step + 1 < rule.count; ++step)
      prefetch(rule.thresholds + int64_t{step} * p.w.order.in + share.begin,
               int64_t{min(share.end, p.w.order.in) - share.begin} * 4);
  int64_t left = p.prefetched;
  for (int plane = 0; plane < p.w.order.planes && left > 0; ++plane) {
    const uint8_t step = p.steps[layer][plane];
    if (step != Problem::kAlways && step != 0) break;
    const int row = p.w.order.row_bytes(plane);
    const int64_t bytes = min(left, channels * row);
    prefetch(p.w.digits + share.tile * p.w.order.tile_bytes() + p.w.order.plane_at(plane) +
                 int64_t{share.begin} * row,
             bytes);
    left -= bytes;
  }
}

template <class S>
__device__ inline void await_all_but(int pending) {
  if (S::kDepth > 4 && pending >= S::kDepth - 1)
    wait_copies<S::kDepth - 1>();
  else if (pending >= 3)
    wait_copies<3>();
  else if (pending == 2)
    wait_copies<2>();
  else if (pending == 1)
    wait_copies<1>();
  else
    wait_copies<0>();
}

template <class S>
__device__ void run_tiles(const Problem& p, uint8_t* shared) {
  const Plan plan = Plan::of<S>(p.w.order, p.cluster);
  int lane;  // volatile, so that it is not read again in the loop
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  const int number_in_block = threadIdx.x / 32, across = p.w.order.across;
  const int part = number_in_block % across, teams = kWarps / across;
  // This warp's channels of every tile.
  const int blocks = p.w.order.padded_in / NestedOrder::kBlock, shares = p.cluster * teams;
  const int share = rank_in_cluster() * teams + number_in_block / across;
  const int begin = share * blocks / shares * NestedOrder::kBlock,
            end = (share + 1) * blocks / shares * NestedOrder::kBlock;
  Round ahead;
  ahead.span = {static_cast<int>(blockIdx.x) / p.cluster, part, begin, begin};
  if (lane == 0) prefetch_certain<S>(p, {ahead.span.tile, part, begin, end});
  wait_for_inputs();
  if (p.input.form == GemvInput::Form::rms_norm) {
    auto* scratch = reinterpret_cast<float*>(shared + plan.scratch);
    for (int t = 0; t < p.tokens; ++t) {
      const float factor = p.input.x.type == Type::bf16
                               ? input_factor<__nv_bfloat16>(p.input, p.w.order.in, t, scratch)
                               : input_factor<float>(p.input, p.w.order.in, t, scratch);
      if (threadIdx.x == 0) reinterpret_cast<float*>(shared + plan.factors)[t] = factor;
    }
    __syncthreads();
  }

  const Warp<S> warp(p, plan, shared, lane);
  const int tiles = p.w.tiles();
  Round now;
  now.span = ahead.span;
  Sums sums;
  int number = -1;        // of the round in use
  uint32_t entry_at = 0;  // of the next slot to multiply
  int left = 0;           // slots of it
  uint32_t place = 0;     // of that slot in the ring
  Flow flow;
  bool prepared = false;  // `ahead` is the round after `now`, and is being fetched
  bool first = true;
  clear<S>(warp.y(), lane);
  while (true) {
    if (!prepared && flow.left == 0 && ahead.span.tile < tiles) {
      Span& span = ahead.span;
      if (!first && span.end >= end) {
        span.tile += p.clusters;
        span.end = begin;
      }
      first = false;
      if (span.tile < tiles) {
        span.begin = span.end;
        span.end = min(end, span.begin + kRound);
        if constexpr (S::kByInput)
          span.end = min(span.end, (span.begin / p.w.group + S::kGroups) * p.w.group);
        warp.prepare((number + 1) & 1, ahead, flow);
        prepared = true;
      }
    }
    // Up to where the next round must be prepared, or to the end.
    int run = !prepared && flow.left > 0 ? flow.left : left;
    if (run > 0) {
      left -= run;
#pragma unroll 1
      for (; run > 0; --run) {
        const uint32_t entry = load_pair(entry_at).x;
        const uint2 b = warp.column(entry, entry_at, now);
        await_all_but<S>(flow.in_flight - 1);
        __syncwarp();
        warp.multiply(entry, b, place, sums);
        __syncwarp();
        place = (place + kSlotBytes) % Warp<S>::kRing;
        --flow.in_flight;
        entry_at += SlotList<S>::kWords * 4;
        if (flow.left > 0) warp.fetch_next(flow);
      }
      continue;
    }
    if (number >= 0) {
      add_round<S>(p, now.span, sums, now.last_end, now.factors, warp.y());
      if (now.span.end == end) {
        finish_tile<S>(p, plan, shared, now.span.tile, layer_of(p.w, now.span.tile));
        if (now.span.tile + p.clusters >= tiles) break;
        __syncthreads();
        if (p.cluster > 1) arrive_apart();
        clear<S>(warp.y(), lane);
      }
    }
    now = ahead;
    prepared = false;
    left = now.slots;
    entry_at = now.list;
    ++number;
    sums.clear();
  }
}
#endif

template <class S>
__global__ void __launch_bounds__(kThreads, S::kTokens == 1 ? 2 : 1)
    gemv_kernel(const __grid_constant__ Problem p) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) uint8_t shared[];
  let_next_begin();
  if (p.cluster > 1) arrive_apart();
  run_tiles<S>(p, shared);
#else
  __trap();
#endif
}

template <class S>
void launch(const Problem& p, Stream stream) {
  const Plan plan = Plan::of<S>(p.w.order, p.cluster);
  const auto kernel = gemv_kernel<S>;
  check_call(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, plan.bytes),
             "cudaFuncSetAttribute");
  // Without it the multiprocessor keeps no more shared memory than one block needs.
  check_call(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared),
             "cudaFuncSetAttribute");
  LaunchShape shape{dim3(static_cast<unsigned>(p.clusters * p.cluster)), dim3(kThreads),
                    static_cast<size_t>(plan.bytes)};
  shape.cluster = p.cluster;
  launch_early("nested gemv", kernel, shape, stream, p);
}

template <bool kByInput>
void launch_for(const Problem& p, Stream stream) {
  if (p.tokens > 1)
    launch<Shape<4, kByInput, 4>>(p, stream);
  else
    launch<Shape<1, kByInput, 8>>(p, stream);
}

// The step of a reading that decides on a plane.
uint8_t step_of(const NestedReading& reading, int end) {
  const GradingRule& rule = reading.rule;
  const int certain = rule.count > 0 ? rule.levels[0] : reading.level;
  if (end <= certain) return Problem::kAlways;
  for (int step = 0; step + 1 < rule.count; ++step)
    if (end <= rule.levels[step + 1]) return static_cast<uint8_t>(step);
  return Problem::kNever;
}

}  // namespace nested

// Measured on an H100: rows as short as one warp's let the fewest blocks share a tile's sums; where there are
// tiles in plenty, graded reading gains from whole lines.
int nested_parts_across(int64_t out, int multiprocessors) {
  return out > int64_t{2} * multiprocessors * NestedOrder::kPart ? 4 : 1;
}

NestedLaunch nested_launch(const NestedStream& w, int multiprocessors) {
  NestedLaunch shape;
  const int tiles = w.tiles(), resident = 2 * multiprocessors;
  while (shape.cluster < 4 && tiles * shape.cluster * 2 <= resident) shape.cluster *= 2;
  const int most = resident / shape.cluster;
  shape.clusters = tiles < most ? tiles : most;
  shape.prefetched = 4096;
  return shape;
}

void nested_gemv(const NestedStream& w, const NestedLaunch& shape, const NestedReading* readings,
                 const GemvInput& input, const GemvOutput& output, Stream stream) {
  nested::Problem p{};
  p.w = w;
  for (int i = 0; i < w.layers; ++i) {
    p.readings[i] = readings[i];
    for (int plane = 0; plane < w.order.planes; ++plane)
      p.steps[i][plane] = nested::step_of(readings[i], w.order.end[plane]);
  }
  p.input = input;
  p.output = output;
  p.tokens = static_cast<int>(input.x.rows);
  p.cluster = shape.cluster;
  p.clusters = shape.clusters;
  p.prefetched = static_cast<int>(shape.prefetched);
  if (w.by_input)
    nested::launch_for<true>(p, stream);
  else
    nested::launch_for<false>(p, stream);
}

void nested_gemv(const NestedStream& w, const NestedReading* readings, const GemvInput& input,
                 const GemvOutput& output, int multiprocessors, Stream stream) {
  const ConstView& x = input.x;
  for (int64_t first = 0; first < x.rows; first += 4) {
    GemvInput some = input;
    some.x.rows = x.rows - first < 4 ? x.rows - first : 4;
    some.x.data = static_cast<const char*>(x.data) + first * x.stride * size_of(x.type);
    GemvOutput there = output;
    there.y = output.y.rows_between(first, first + some.x.rows);
    nested_gemv(w, nested_launch(w, multiprocessors), readings, some, there, stream);
  }
}

}  // namespace grinqh::cuda
