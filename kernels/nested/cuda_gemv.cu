#include "kernels/nested/cuda_gemv.h"

#include "cuda/launch.cuh"
#include "kernels/nested/gemv_channels.cuh"
#include "kernels/nested/gemv_outputs.cuh"
#include "kernels/nested/gemv_shape.cuh"
#include "kernels/nested/gemv_stages.cuh"

namespace grinqh::cuda {

namespace nested {

// What a block needs at the start and can have before the inputs are known: grids, and thresholds.
template <class S>
__device__ void prefetch_metadata(const NestedGemvWeights& weights, const NestedGemvCall& call,
                                  const Span& span) {
  constexpr int kLine = 128;
  if constexpr (S::kByInput) {
    const int first = span.begin / weights.part * weights.part / weights.group,
              last = (span.end - 1) / weights.group;
    const char* from = reinterpret_cast<const char*>(
        weights.grids + (int64_t{span.tile} * weights.groups + first) * S::kTile);
    const int lines = (last - first + 1) * S::kTile * 4 / kLine;
    for (int i = threadIdx.x; i < lines; i += kThreads) prefetch_to_l2(from + i * kLine);
  } else if (call.rule.count == 0) {
    const char* from = reinterpret_cast<const char*>(
        weights.grids + (int64_t{span.tile} * weights.in + span.begin) * weights.groups);
    const int bytes = (span.end - span.begin) * weights.groups * 4;
    for (int i = threadIdx.x * kLine; i < bytes; i += kThreads * kLine) prefetch_to_l2(from + i);
  }
  if (call.rule.count > 0 && !call.rule.shared)
    for (int step = 0; step + 1 < call.rule.count; ++step)
      for (int i = span.begin + threadIdx.x * (kLine / 4); i < span.end; i += kThreads * (kLine / 4))
        prefetch_to_l2(call.rule.thresholds + int64_t{step} * weights.in + i);
}

template <class S>
__device__ inline void prepare(const NestedGemvWeights& weights, const NestedGemvCall& call, const Span& span,
                               const List<S>& list) {
  if constexpr (S::kByInput)
    prepare_inputs(weights, call, span, list);
  else
    prepare_scaled_inputs(weights, call, span, list);
}

template <class S>
__global__ void __launch_bounds__(kThreads, S::kProducts == 1 ? 2 : 1)
    gemv_kernel(const __grid_constant__ NestedGemvWeights weights,
                const __grid_constant__ NestedGemvCall call, NestedGemvWorkspace workspace) {
  extern __shared__ __align__(128) uint8_t shared[];
  let_next_begin();
  uint8_t* const factors = shared + kStages * S::kStageBytes;
  uint8_t* const lists = factors + 2 * S::kSteps * S::kFactorBytes;
  const int planes = weights.planes.count;
  const auto list_at = [&](int number) {
    return List<S>(lists + number % S::kLists * List<S>::bytes(planes), planes);
  };
  const auto factors_at = [&](int stage) { return factors + stage % 2 * (S::kSteps * S::kFactorBytes); };

  const int units = (weights.in + 31) / 32 * weights.tiles;
  Walk<S> ahead(units), behind(units);
  int built = 0, used = 0;    // lists
  int fetched = 0, done = 0;  // stages
  int next = 0, end = 0;      // stages of the list being fetched
  Span fetching{};
  bool known = call.rule.count == 0;  // whether lists can be built

  // Fills the ring as far as lists and stages have room.
  const auto fill = [&](bool inputs_known) {
    while (fetched < done + kStages) {
      if (next == end) {
        if (ahead.done() || built - used == S::kLists) return;
        fetching = ahead.span(weights);
        ahead.advance(weights, fetching);
        const List<S> list = list_at(built++);
        prefetch_metadata<S>(weights, call, fetching);
        select_rows(weights, call, fetching, list);
        if (inputs_known) prepare(weights, call, fetching, list);
        next = 0;
        end = list.stages[0] + list.stages[1];
      }
      const List<S> list = list_at(built - 1);
      fetch<S>(weights, fetching, list.entries, stage_of<S>(next++, list.stages[0]),
               shared_address(shared + fetched++ % kStages * S::kStageBytes));
    }
  };

  if (known) {
    fill(false);
    wait_for_inputs();
    Walk<S> walk = behind;
    for (int i = 0; i < built; ++i) {
      const Span span = walk.span(weights);
      walk.advance(weights, span);
      prepare(weights, call, span, list_at(i));
    }
  } else {
    // The first list's values come after its first rows are under way.
    prefetch_metadata<S>(weights, call, ahead.span(weights));
    wait_for_inputs();
    fill(true);
  }

  Sum<S> sum;
  Outputs<S> outputs;
  sum.clear();
  outputs.clear();
  int stage = 0;  // of the list in use
  write_factors<S>(weights.planes, list_at(0), stage_of<S>(0, list_at(0).stages[0]), factors_at(0));
  Span span = behind.span(weights);
  while (done < fetched) {
    await_copies_but<kStages>(fetched - done - 1);
    __syncthreads();
    fill(true);
    const List<S> list = list_at(used);
    const int stages2 = list.stages[0], stages = stages2 + list.stages[1];
    if (done + 1 < fetched) {
      const bool same = stage + 1 < stages;
      const List<S> following = same ? list : list_at(used + 1);
      write_factors<S>(weights.planes, following, stage_of<S>(same ? stage + 1 : 0, following.stages[0]),
                       factors_at(done + 1));
    }
    LaneGrids grids{};
    const bool last = stage + 1 == stages;
    if (S::kByInput && last) grids = load_grids<S>(weights, span);
    multiply<S>(shared + done % kStages * S::kStageBytes, factors_at(done), stage_of<S>(stage, stages2), sum);
    ++done;
    ++stage;
    if (!last) continue;
    finish_list(weights, span, list, grids, sum, outputs);
    stage = 0;
    ++used;
    if (behind.advance(weights, span)) {
      const int tokens = static_cast<int>(call.y.rows);
      const int64_t number =
          (static_cast<int>(blockIdx.x) + span.tile) * S::kDeep + threadIdx.x / 32 / S::kAcross;
      write_partial<S>(outputs, tokens, workspace.partials + number * tokens * S::kTile);
      join_tile<S>(weights, call.y, span.tile, workspace);
      outputs.clear();
    }
    if (!behind.done()) span = behind.span(weights);
  }
}

template <class S>
void launch(const NestedGemvWeights& weights, const NestedGemvCall& call,
            const NestedGemvWorkspace& workspace, int processors, Stream stream) {
  const int bytes = shared_bytes<S>(weights.planes.count);
  const auto kernel = gemv_kernel<S>;
  check_call(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "cudaFuncSetAttribute");
  const int units = (weights.in + 31) / 32 * weights.tiles;
  const LaunchShape shape{dim3(static_cast<unsigned>(processors < units ? processors : units)),
                          dim3(kThreads), static_cast<size_t>(bytes)};
  launch_early("nested_gemv", kernel, shape, stream, weights, call, workspace);
}

template <int kAcross, bool kByInput>
void launch_for_tokens(const NestedGemvWeights& weights, const NestedGemvCall& call,
                       const NestedGemvWorkspace& workspace, int processors, Stream stream) {
  const int64_t tokens = call.x.rows;
  const auto with = [&](auto shape) {
    launch<decltype(shape)>(weights, call, workspace, processors, stream);
  };
  if (tokens == 1)
    with(Shape<kAcross, 1, 1, kByInput>());
  else if (tokens == 2)
    with(Shape<kAcross, 2, 1, kByInput>());
  else if (tokens <= 4)
    with(Shape<kAcross, 4, 1, kByInput>());
  else
    with(Shape<kAcross, 4, 2, kByInput>());
}

}  // namespace nested

int64_t nested_gemv_partials(const NestedGemvWeights& weights, int processors) {
  return int64_t{processors + weights.tiles} * 8 * (nested::kWarps * nested::kSlice);
}

void nested_gemv(const NestedGemvWeights& weights, const NestedGemvCall& call,
                 const NestedGemvWorkspace& workspace, int processors, Stream stream) {
  const bool wide = weights.tile == 1024;
  const auto run =
      wide ? weights.by_input ? nested::launch_for_tokens<8, true> : nested::launch_for_tokens<8, false>
      : weights.by_input ? nested::launch_for_tokens<4, true>
                         : nested::launch_for_tokens<4, false>;
  run(weights, call, workspace, processors, stream);
}

}  // namespace grinqh::cuda
