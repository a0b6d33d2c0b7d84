// The kernel of the order in gemv_order.h. The integers that stand for x are the same for all planes; between
// planes the sums are raised by what the digits behind are worth less.
#include <array>
#include <atomic>

#include "cuda/gemv_launch.cuh"
#include "kernels/nested/cuda_gemv.h"
#include "kernels/nested/gemv_tables.cuh"

namespace grinqh::cuda {

namespace nested {

#if __CUDA_ARCH__ >= 900
// Integers of a unit and what belongs to them; along the inputs they serve all tiles.
template <class S>
__device__ void prepare_unit(const Problem& p, const Warp& warp, int unit, bool first_tile,
                             const uint32_t* grids, Factors<S> (&made)[S::kTokens]) {
  auto* kept = reinterpret_cast<UnitSums*>(warp.memory + p.plan.units) + unit * S::kTokens;
  if (!S::kByInput || first_tile) {
#pragma unroll
    for (int t = 0; t < S::kTokens; ++t) {
      made[t] = make_integers<S>(p, warp, t, unit, grids, warp.integers(p, t, unit));
      if (S::kByInput && warp.lane == 0) kept[t] = {made[t].unit, made[t].inputs, made[t].middles[0]};
    }
    __syncwarp();
  } else {
#pragma unroll
    for (int t = 0; t < S::kTokens; ++t)
      made[t].unit = kept[t].unit, made[t].inputs = kept[t].inputs, made[t].middles[0] = kept[t].middles;
  }
}

// Plane by plane, the sums raised between them.
template <class S>
__device__ void multiply_digits(const Problem& p, const Warp& warp, int unit, int number, Ring<S>& ring,
                                const Factors<S> (&made)[S::kTokens], const uint32_t* grids, Outputs<S>& y) {
  if (S::kTables && linear_count(p, warp, unit) == 0) return;
  const Columns<S> columns(p, warp, unit);
  Sums<S> sums;
  sums.clear();
  int last_end = 0;
  for (int plane = 0; plane < p.w.order.planes; ++plane) {
    const int all = warp.count_of(p, unit, plane), end = p.w.order.end[plane];
    const int count = S::kTables ? min(all, linear_count(p, warp, unit)) : all;
    if (count == 0) break;
    if (plane > 0) sums.raise(end - last_end);
    last_end = end;
    const bool pairs = !S::kSingles || p.w.order.bits(plane) == 2;
#pragma unroll 1
    for (int position = 0; position < count; position += pairs ? 16 : 32) {
      ring.await();
      __syncwarp();
      const auto fetch = [&] { ring.fetch_one(number + 1); };
      const int steps = (count - position + NestedOrder::kStep - 1) / NestedOrder::kStep;
      if (pairs)
        multiply_pairs<S>(ring.oldest(), columns, position, steps, plane, warp.lane, sums, fetch);
      else
        multiply_singles<S>(ring.oldest(), columns, position, steps, plane, warp.lane, sums, fetch);
      ring.release();
    }
  }
#pragma unroll
  for (int t = 0; t < S::kTokens; ++t)
    add_digit_sums<S>(sums, t, last_end, warp.lane, made[t], grids, y.of[t]);
}

// Channels of levels that have tables, level by level, 16 channels at a time.
template <class S>
__device__ void multiply_tables(const Problem& p, const Warp& warp, int unit, int number, Ring<S>& ring,
                                const Factors<S>& made, const uint32_t* grids, float (&y)[kOwned]) {
  for (int planes = p.w.tabled_planes; planes > 0; --planes) {
    const int begin = warp.count_of(p, unit, planes), end = warp.count_of(p, unit, planes - 1);
    if (begin >= end) continue;
    const int level = p.w.order.end[planes - 1];
    const NestedTable table = p.w.tables[warp.layer][level];
    Sums<S> sums;
    sums.clear();
#pragma unroll 1
    for (int position = begin; position < end; position += 16) {
      const int steps = (end - position + NestedOrder::kStep - 1) / NestedOrder::kStep;
      Nibbles codes;
      for (int plane = 0; plane < planes; ++plane) {
        ring.await();
        __syncwarp();
        codes.append(ring.oldest(), S::kSingles && p.w.order.bits(plane) == 1, warp.lane);
        ring.fetch_one(number + 1);
        ring.release();
      }
      if (level <= 2)
        multiply_codes<S, 2>(codes, table, p, warp, unit, position, steps, sums);
      else if (S::kSingles && level == 3)
        multiply_codes<S, 3>(codes, table, p, warp, unit, position, steps, sums);
      else
        multiply_codes<S, 4>(codes, table, p, warp, unit, position, steps, sums);
    }
    add_code_sums<S>(sums, warp.lane, made, grids, y);
  }
}

template <class S>
__device__ void run_tiles(const Problem& p, uint8_t* shared) {
  const int lane = threadIdx.x % 32, in_block = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
  const int cluster = cluster_number();
  int layer = 0;
  while (cluster >= p.first_cluster[layer + 1]) ++layer;
  const int step = p.first_cluster[layer + 1] - p.first_cluster[layer];
  const int first_tile = p.w.first_tile[layer] + cluster - p.first_cluster[layer],
            end_tile = p.w.first_tile[layer + 1];
  Warp warp;
  warp.memory = shared + in_block * p.plan.warp_bytes;
  warp.lane = lane;
  warp.begin = min((rank_in_cluster() * S::kWarps + in_block) * p.share, p.w.order.in);
  warp.count = min(p.share, p.w.order.in - warp.begin);
  warp.layer = layer;
  warp.listed = p.readings[layer].rule.count > 0;

  const GradingRule& rule = p.readings[layer].rule;
  Ring<S> ring(p, warp, first_tile, end_tile, step);
  Thresholds thresholds;
  if (warp.listed) {
    thresholds.stage(p, rule, warp.begin, warp.count, lane, warp.memory, S::kDepth * kSlotBytes);
    ring.fetch_first_grids();
    ring.prefetch_likely();
  } else {
    ring.fetch_first_grids();
    ring.begin();
    ring.template fill<S::kDepth - 1>(0);
  }
  wait_for_inputs();
  auto* factors = reinterpret_cast<float*>(shared + p.plan.factors);
  if (p.input.form == GemvInput::Form::rms_norm) {
    float* of_tokens = factors + 36;
    for (int t = 0; t < p.tokens; ++t) {
      const float factor = p.input.x.type == Type::bf16
                               ? input_factor<__nv_bfloat16>(p.input, p.w.order.in, t, factors)
                               : input_factor<float>(p.input, p.w.order.in, t, factors);
      if (threadIdx.x == 0) of_tokens[t] = factor;
    }
    __syncthreads();
    factors = of_tokens;
  }
  if (warp.listed && !rule.shared) {
    wait_copies<0>();
    __syncwarp();
  }
  take_inputs<S>(p, warp, factors, thresholds);
  if (warp.listed) ring.begin();

  int number = 0, tile_number = 0;  // of the unit, of the tile
  for (int tile = first_tile; tile < end_tile; tile += step, ++tile_number) {
    Outputs<S> y;
    y.clear();
    for (int unit = 0; unit * p.unit < warp.count; ++unit, ++number) {
      ring.template fill<S::kDepth - 1>(number);
      if (warp.count_of(p, unit, 0) == 0) continue;
      const auto* grids = reinterpret_cast<const uint32_t*>(
          warp.memory + p.plan.grids + (number & (p.plan.buffers - 1)) * p.plan.grid_bytes);
      if (number == 0)
        ring.await_first_grids();
      else
        ring.await();
      __syncwarp();
      Factors<S> made[S::kTokens];
      prepare_unit<S>(p, warp, unit, tile_number == 0, grids, made);
      multiply_digits<S>(p, warp, unit, number, ring, made, grids, y);
      if constexpr (S::kTables) multiply_tables<S>(p, warp, unit, number, ring, made[0], grids, y.of[0]);
#pragma unroll
      for (int t = 0; t < S::kTokens; ++t) add_middles<S>(made[t], lane, grids, y.of[t]);
      __syncwarp();
    }
    finish_tile<S>(p, shared, tile, layer, tile_number, y);
  }
}
#endif

template <class S>
__global__ void __launch_bounds__(S::kThreads, 1) gemv_kernel(const __grid_constant__ Problem p) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) uint8_t shared[];
  let_next_begin();
  if (p.cluster > 1) {
    if (threadIdx.x == 0) prepare_inbox(p, shared);
    arrive_relaxed();
  }
  run_tiles<S>(p, shared);
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

int divide_up(int a, int b) { return (a + b - 1) / b; }

// Channels of a unit and of a warp, for a tile that so many warps share; units: at least so many a warp.
void share_channels(Problem& p, int warps, int most_unit, int units, int spare) {
  const int in = p.w.order.in;
  if (p.w.by_input()) {
    // Units are parts of groups, so that each has its scales.
    p.unit = p.w.groups == 1 ? most_unit : p.w.group;
    if (p.unit > most_unit) {
      int parts = divide_up(p.unit, most_unit);
      while (p.unit % (parts * NestedOrder::kStep) != 0) ++parts;
      p.unit /= parts;
    }
    p.units = divide_up(divide_up(in, p.unit), warps);
    p.share = p.units * p.unit;
  } else {
    p.share = divide_up(divide_up(in, NestedOrder::kStep), warps) * NestedOrder::kStep;
    p.units = max(units, divide_up(p.share, most_unit));
    p.unit = divide_up(divide_up(p.share, NestedOrder::kStep), p.units) * NestedOrder::kStep;
  }
  p.padded = (p.units * p.unit + 15) / 16 * 16;
  p.places = p.unit + spare;
}

// A block has a multiprocessor to itself: with room for two, blocks of a launch share multiprocessors while
// others have none, as the launch before leaves them.
constexpr int kLeastShared = 116 * 1024, kMostShared = 227 * 1024;

// Clusters that the device holds at once.
template <class S>
int resident_clusters(int cluster) {
  static std::array<std::atomic<int>, 9> known;
  if (known[static_cast<size_t>(cluster)] == 0) {
    const auto kernel = gemv_kernel<S>;
    check_call(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostShared),
               "cudaFuncSetAttribute");
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(cluster);
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(cluster));
    config.blockDim = dim3(S::kThreads);
    config.dynamicSmemBytes = kMostShared;
    config.attrs = &attribute;
    config.numAttrs = 1;
    int count = 0;
    check_call(cudaOccupancyMaxActiveClusters(&count, kernel, &config), "cudaOccupancyMaxActiveClusters");
    known[static_cast<size_t>(cluster)] = count;
  }
  return known[static_cast<size_t>(cluster)];
}

// The cut that leaves a warp the least work, where a tile costs as much as 48 channels beside its own, and 10
// for each block of the cluster (fitted on an H100). False if there is none whose arrays fit.
template <class S>
bool cut(Problem& p) {
  const int tiles = p.w.tiles();
  int best_cost = 0;
  Problem trial = p;
  for (int cluster = 1; cluster <= 8; ++cluster) {
    trial.cluster = cluster;
    trial.owned = divide_up(NestedOrder::kTile, cluster);
    trial.owned_inverse = 65536 / trial.owned + 1;
    const int clusters = min(tiles, max(p.w.layers, resident_clusters<S>(cluster)));
    // Each layer's clusters by its tiles.
    int most_tiles = 1;
    for (int i = 0; i < p.w.layers; ++i) {
      const int own = p.w.first_tile[i + 1] - p.w.first_tile[i];
      const int given = max(1, min(own, static_cast<int>(int64_t{clusters} * own / tiles)));
      trial.first_cluster[i + 1] = trial.first_cluster[i] + given;
      most_tiles = max(most_tiles, divide_up(own, given));
    }
    constexpr int kMostParts = 4;
    for (int units = 1; units <= kMostParts; ++units) {
      share_channels(trial, cluster * S::kWarps, S::kMaxUnit, units, S::kSpare);
      trial.plan = plan_of<S>(trial, most_tiles);
      if (trial.plan.bytes <= kMostShared) break;
    }
    const int cost = most_tiles * (trial.units * trial.unit + 48 + 10 * cluster);
    if (trial.plan.bytes > kMostShared || (best_cost > 0 && cost >= best_cost)) continue;
    trial.likely = trial.share * 3 / 8 / NestedOrder::kStep * NestedOrder::kStep;
    best_cost = cost;
    p = trial;
  }
  return best_cost > 0;
}

template <class S>
void launch(const Problem& p, Stream stream) {
  LaunchShape shape{dim3(static_cast<unsigned>(p.first_cluster[p.w.layers] * p.cluster)), dim3(S::kThreads),
                    static_cast<size_t>(max(p.plan.bytes, kLeastShared))};
  shape.cluster = p.cluster;
  launch_streaming("nested gemv", gemv_kernel<S>, shape, stream, p);
}

// run(Shape) of what the layers and the number of tokens ask for. kLane: channels of a lane.
template <int kTokens, bool kTables, int kLane, class Run>
auto with_shape(const NestedStream& w, const Run& run) {
  const auto of_columns = [&]<int kColumns>() {
    const bool singles = w.order.planes * 2 != w.order.end[w.order.planes - 1];
    return singles ? run(Shape<kTokens, kColumns, true, kTables, kLane>())
                   : run(Shape<kTokens, kColumns, false, kTables, kLane>());
  };
  switch (w.columns) {
    case 0:
      return of_columns.template operator()<0>();
    case 1:
      return of_columns.template operator()<1>();
    case 2:
      return of_columns.template operator()<2>();
    default:
      return of_columns.template operator()<4>();
  }
}

Problem problem_of(const NestedStream& w, const NestedReading* readings) {
  Problem p{};
  p.w = w;
  p.tile_bytes = w.order.tile_bytes();
  p.grids_of_tile = w.grids_of_tile();
  for (int plane = 0; plane < w.order.planes; ++plane)
    p.plane_at[plane] = static_cast<uint32_t>(w.order.plane_at(plane));
  for (int i = 0; readings != nullptr && i < w.layers; ++i) {
    p.readings[i] = readings[i];
    const GradingRule& rule = readings[i].rule;
    p.planes_at[i][0] = planes_within(w.order, readings[i].level);
    for (int step = 0; step < rule.count; ++step)
      p.planes_at[i][step] = planes_within(w.order, rule.levels[step]);
  }
  return p;
}

}  // namespace nested

bool nested_gemv_fits(const NestedStream& w) {
  nested::Problem p = nested::problem_of(w, nullptr);
  const auto fits = [&]<class S>(S) { return nested::cut<S>(p); };
  return w.tabled_planes > 0 ? nested::with_shape<1, true, 4>(w, fits)
                             : nested::with_shape<1, false, 8>(w, fits);
}

void nested_gemv(const NestedStream& w, const NestedReading* readings, const GemvInput& input,
                 const GemvOutput& output, Stream stream) {
  nested::Problem p = nested::problem_of(w, readings);
  const auto launch = [&]<class S>(S) {
    if (!nested::cut<S>(p)) return false;
    // Where a warp has few channels, a lane has four.
    if (S::kTokens == 1 && S::kLane == 8 && p.share <= 128) return false;
    nested::launch<S>(p, stream);
    return true;
  };
  run_by_tokens(input, output, [&](const GemvInput& some, const GemvOutput& there) {
    p.input = some;
    p.output = there;
    p.tokens = static_cast<int>(some.x.rows);
    if (p.tokens > 1)
      return w.tabled_planes == 0 && p.tokens <= 4 && nested::with_shape<4, false, 8>(w, launch);
    const bool launched = w.tabled_planes > 0 ? nested::with_shape<1, true, 4>(w, launch)
                                              : nested::with_shape<1, false, 8>(w, launch) ||
                                                    nested::with_shape<1, false, 4>(w, launch);
    if (!launched) check_call(cudaErrorInvalidConfiguration, "nested gemv: no cut fits");
    return true;
  });
}

}  // namespace grinqh::cuda
