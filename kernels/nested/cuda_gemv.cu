// Launches of the kernel of the order in gemv_order.h.
#include <algorithm>

#include "cuda/gemv_launch.cuh"
#include "kernels/nested/cuda_gemv.h"
#include "kernels/nested/gemv_run.cuh"

namespace grinqh::cuda {

namespace nested {

template <class S>
__global__ void __launch_bounds__(S::kThreads, BlockMemory<S>::kBlocks)
    gemv_kernel(const __grid_constant__ Problem p) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) uint8_t shared[];
  let_next_begin();
  bring_norm_weights(p.input, p.w.order.in);
  run_units<S>(p, shared);
#else
  __trap();
#endif
}

// Planes that end within the level.
uint8_t planes_within(const NestedOrder& order, int level) {
  int count = 0;
  while (count < order.planes && order.end[count] <= level) ++count;
  return static_cast<uint8_t>(count);
}

template <class S>
void launch(Problem& p, Stream stream) {
  const auto bytes = static_cast<size_t>(BlockMemory<S>::bytes(p.schedule.sums_of_block));
  // Blocks that have a multiprocessor to themselves must not pile up where the launch before ends first.
  const bool alone = BlockMemory<S>::kBlocks == 1;
  const LaunchShape shape{dim3(static_cast<unsigned>(p.schedule.blocks)), dim3(S::kThreads),
                          alone ? std::max(bytes, kMoreThanHalfShared) : shared_bytes_behind(p.input, bytes)};
  launch_streaming("nested gemv", gemv_kernel<S>, shape, stream, p);
}

// run(Shape) of what the layers and the number of tokens ask for; kColumns, kOthers: columns of scales, of
// which the layers have one.
template <int kTokens, bool kTables, int kLane, bool kMany, bool kGrades, int kColumns, int... kOthers,
          class Run>
auto with_columns(const NestedStream& w, const Run& run) {
  if constexpr (sizeof...(kOthers) > 0)
    if (w.columns != kColumns)
      return with_columns<kTokens, kTables, kLane, kMany, kGrades, kOthers...>(w, run);
  const bool singles = w.order.planes * 2 != w.order.end[w.order.planes - 1];
  return singles ? run(Shape<kTokens, kColumns, true, kTables, kLane, kMany, kGrades>())
                 : run(Shape<kTokens, kColumns, false, kTables, kLane, kMany, kGrades>());
}
constexpr int kFewALane = 4, kManyALane = 8;  // channels

// Of a single token. grades: whether a layer is graded; only where eight channels a lane leave little room is
// there a kernel that cannot, and has more of its ring instead.
template <class Run>
auto with_shape(const NestedStream& w, bool grades, const Run& run) {
  const NestedSchedule& schedule = w.single_token;
  if (w.tabled_planes > 0) return with_columns<1, true, kFewALane, true, true, 0, 1, 2, 4>(w, run);
  // Units along the inputs end with their groups.
  if (!schedule.single || w.by_input())
    return w.columns == 4 ? with_columns<1, false, kFewALane, true, true, 4>(w, run)
                          : with_columns<1, false, kManyALane, true, true, 0, 1, 2>(w, run);
  if (schedule.unit <= 32 * kFewALane) return with_columns<1, false, kFewALane, false, true, 1, 2, 4>(w, run);
  return grades ? with_columns<1, false, kManyALane, false, true, 1, 2>(w, run)
                : with_columns<1, false, kManyALane, false, false, 1, 2>(w, run);
}
// Groups of inputs end units, four columns of scales leave too little memory for the integers of more.
bool few_of_several(const NestedStream& w) { return w.by_input() || w.columns == 4; }
template <class Run>
auto with_several(const NestedStream& w, const Run& run) {
  return few_of_several(w) ? with_columns<4, false, kFewALane, true, true, 0, 4>(w, run)
                           : with_columns<4, false, kManyALane, true, true, 1, 2>(w, run);
}

Problem problem_of(const NestedStream& w, const NestedReading* readings) {
  Problem p{};
  p.w = w;
  p.tile_pieces = static_cast<uint32_t>(w.order.tile_bytes() / 16);
  p.grids_of_tile = w.grids_of_tile();
  for (int plane = 0; plane < w.order.planes; ++plane)
    p.plane_at[plane] = static_cast<uint32_t>(w.order.plane_at(plane) / 16);
  for (int i = 0; i < w.layers; ++i) {
    p.readings[i] = readings[i];
    const GradingRule& rule = readings[i].rule;
    const auto step_of = [&](int level) {
      return static_cast<uint16_t>(level | planes_within(w.order, level) << 8);
    };
    p.steps[i][0] = step_of(readings[i].level);
    for (int step = 0; step < rule.count; ++step) p.steps[i][step] = step_of(rule.levels[step]);
  }
  return p;
}

}  // namespace nested

NestedCut nested_cut(const NestedStream& w, bool several_tokens) {
  using Few = nested::Shape<1, 1, false, false, nested::kFewALane, true, true>;
  using Many = nested::Shape<1, 1, false, false, nested::kManyALane, true, true>;
  if (several_tokens)
    return nested::with_several(w, []<class S>(S) {
      return NestedCut{S::kWarps, S::kMostUnit, S::kMostUnit};
    });
  const bool few = w.tabled_planes > 0 || w.columns == 4;
  return {Few::kWarps, Few::kMostUnit, few ? Few::kMostUnit : Many::kMostUnit};
}

bool nested_gemv_fits(const NestedStream& w) {
  const auto fits = [](const NestedSchedule& schedule) {
    return [&schedule]<class S>(S) {
      return nested::BlockMemory<S>::bytes(schedule.sums_of_block) <= kMostShared;
    };
  };
  return nested::with_shape(w, true, fits(w.single_token)) &&
         (w.tabled_planes > 0 || nested::with_several(w, fits(w.several_tokens)));
}

void nested_gemv(const NestedStream& w, const NestedReading* readings, const GemvInput& input,
                 const GemvOutput& output, Stream stream) {
  nested::Problem p = nested::problem_of(w, readings);
  const auto launch = [&]<class S>(S) { nested::launch<S>(p, stream); };
  run_by_tokens(input, output, [&](const GemvInput& some, const GemvOutput& there) {
    p.input = some;
    p.output = there;
    p.tokens = static_cast<int>(some.x.rows);
    p.schedule = p.tokens > 1 ? w.several_tokens : w.single_token;
    if (p.tokens > 1) {
      if (w.tabled_planes > 0 || p.tokens > NestedSchedule::kMostTokens) return false;
      nested::with_several(w, launch);
      return true;
    }
    const bool grades = std::any_of(readings, readings + w.layers,
                                    [](const NestedReading& reading) { return reading.rule.count > 0; });
    nested::with_shape(w, grades, launch);
    return true;
  });
}

}  // namespace grinqh::cuda
