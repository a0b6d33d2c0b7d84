#include "cuda/column_feedback.h"

#include "cuda/nested_places.cuh"
#include "cuda/warp_range.cuh"

namespace grinqh::cuda {

namespace {

// A warp has a row: each lane holds four of the block's columns, and all lanes round the column whose turn it
// is, with the sums in the order of the CPU's (quant/column_feedback.cpp).
constexpr int kWarps = 8;
constexpr int kSlots = kFeedbackColumns / 32;
constexpr unsigned kAll = 0xffffffffu;

__device__ float subtracted(float from, float a, float b) { return __fsub_rn(from, __fmul_rn(a, b)); }

// What a column is rounded with.
struct Parameters {
  float scale, offset;
};

struct Rounded {
  uint8_t code;
  float error;
};

template <bool kSearch>  // for the best share of a range
class AffineRounder {
 public:
  static constexpr bool kFits = true;
  __device__ AffineRounder(const AffineColumns& columns, const FeedbackBlock& block, int64_t row, float*)
      : columns_(columns), in_(block.in), row_(row) {}

  // False where the grid is fitted later on.
  __device__ bool known(int64_t place, int64_t first) const {
    return !columns_.fit_to || place / columns_.group * columns_.group < first;
  }
  __device__ Parameters load(int64_t place) const {
    const AffineGrid grid = columns_.grids[row_ * columns_.groups + input(place) / columns_.group];
    return {from_half(grid.scale), static_cast<float>(grid.zero)};
  }
  __device__ bool begins(int64_t place) const { return columns_.fit_to && place % columns_.group == 0; }
  __device__ int64_t end_of_group(int64_t place) const { return min(place + columns_.group, in_); }

  // By the whole warp.
  __device__ Parameters fit(int64_t place) const {
    const int lane = threadIdx.x % 32;
    const int64_t count = end_of_group(place) - place;
    const float* group = columns_.fit_to + row_ * in_ + place;
    float lowest = group[0], highest = group[0];
    for (int64_t i = lane; i < count; i += 32) {
      lowest = fminf(lowest, group[i]);
      highest = fmaxf(highest, group[i]);
    }
    const AffineRule rule = columns_.rule;
    const WeightRange range = covered_range(least_of_warp(lowest), greatest_of_warp(highest), rule.symmetric);
    AffineGrid grid = grid_of_range(range, rule);
    if constexpr (kSearch) grid = best_share(group, count, range);
    if (lane == 0) {
      columns_.grids[row_ * columns_.groups + place / columns_.group] = grid;
      // Positive floats ascend like their bits.
      if (!is_finite_half(grid.scale))
        atomicMax(columns_.too_large, __float_as_uint(exact_scale(range, rule)));
    }
    return {from_half(grid.scale), static_cast<float>(grid.zero)};
  }

  __device__ Rounded round(float weight, const Parameters& grid, int64_t) const {
    const float code = affine_code(weight, grid.scale, grid.offset, columns_.rule.top_code());
    return {static_cast<uint8_t>(code), weight - affine_value(code, grid.scale, grid.offset)};
  }
  __device__ void store(int64_t place, uint8_t code) const {
    columns_.codes[row_ * in_ + input(place)] = code;
  }

 private:
  __device__ int64_t input(int64_t place) const { return columns_.inputs ? columns_.inputs[place] : place; }

  // The first share of least error: each lane tries every 32nd.
  __device__ AffineGrid best_share(const float* group, int64_t count, const WeightRange& range) const {
    const AffineRule rule = columns_.rule;
    double least = HUGE_VAL;
    int best = threadIdx.x % 32;
    for (int step = threadIdx.x % 32; step < rule.shares; step += 32) {
      const AffineGrid grid = grid_of_range(step == 0 ? range : share_of_range(range, step, rule), rule);
      const double sum = affine_error(group, count, grid, rule, least);
      if (sum < least) least = sum, best = step;
    }
    for (int step = 16; step > 0; step /= 2) {
      const double other = __shfl_xor_sync(kAll, least, step);
      const int other_best = __shfl_xor_sync(kAll, best, step);
      if (other < least || (other == least && other_best < best)) least = other, best = other_best;
    }
    if (best >= rule.shares) best = 0;
    return grid_of_range(best == 0 ? range : share_of_range(range, best, rule), rule);
  }

  const AffineColumns& columns_;
  int64_t in_, row_;
};

class NestedRounder {
 public:
  static constexpr bool kFits = false;
  // shared: positions of all levels.
  __device__ NestedRounder(const NestedColumns& columns, const FeedbackBlock& block, int64_t row,
                           float* shared)
      : columns_(columns), in_(block.in), row_(row), positions_(shared) {}

  __device__ bool known(int64_t, int64_t) const { return true; }
  __device__ Parameters load(int64_t place) const {
    const NestedGrid grid = grid_of(columns_.places, row_, place);
    return {grid.scale, grid.minimum};
  }
  __device__ bool begins(int64_t) const { return false; }
  __device__ int64_t end_of_group(int64_t place) const { return place; }
  __device__ Parameters fit(int64_t) const { return {}; }

  __device__ Rounded round(float weight, const Parameters& grid, int64_t place) const {
    const uint8_t code = nested_code(weight, grid.scale, grid.offset);
    float decoded = 0;
    for (int k = 0; k < columns_.levels; ++k)
      decoded = __fadd_rn(
          decoded, __fmul_rn(__ldg(columns_.shares + k * in_ + place), positions_[k * kNestedCodes + code]));
    return {code, nested_error(weight, grid.scale, grid.offset, decoded)};
  }
  __device__ void store(int64_t place, uint8_t code) const { columns_.codes[row_ * in_ + place] = code; }

 private:
  const NestedColumns& columns_;
  int64_t in_, row_;
  const float* positions_;
};

__device__ void load_shared(const AffineColumns&, float*) {}
__device__ void load_shared(const NestedColumns& columns, float* positions) {
  for (int i = threadIdx.x; i < columns.levels * kNestedCodes; i += blockDim.x)
    positions[i] = columns.positions[i];
  __syncthreads();
}

template <class Rounder, class Columns, bool kDrift>
__global__ __launch_bounds__(32 * kWarps) void round_rows(const FeedbackBlock block, const Columns columns) {
  __shared__ float shared[Rounder::kFits ? 1 : kMaxNestedLevels * kNestedCodes];
  load_shared(columns, shared);
  const int lane = threadIdx.x % 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= block.rows) return;
  const Rounder rounder(columns, block, row, shared);
  const int64_t in = block.in, first = block.first;
  float* current = block.current + row * in + first;

  float weight[kSlots], rounded[kSlots] = {}, error[kSlots] = {};
  Parameters parameters[kSlots] = {};
  uint8_t code[kSlots] = {};
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    const int j = lane + 32 * s;
    weight[s] = j < block.width ? current[j] : 0.0f;
    if (j < block.width && rounder.known(first + j, first)) parameters[s] = rounder.load(first + j);
  }

#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    for (int l = 0; l < 32; ++l) {
      const int i = 32 * s + l;
      if (i >= block.width) break;
      const float* upper = block.upper + (first + i) * in + first;
      float shares[kSlots], drifts[kSlots];
#pragma unroll
      for (int t = s; t < kSlots; ++t) {
        const int j = lane + 32 * t;
        const bool later = j > i && j < block.width;
        shares[t] = later ? __ldg(upper + j) : 0.0f;
        if constexpr (kDrift) drifts[t] = later ? __ldg(block.drift + (first + i) * in + first + j) : 0.0f;
      }
      if (Rounder::kFits && rounder.begins(first + i)) {
        const Parameters fitted = rounder.fit(first + i);
        const int64_t end = rounder.end_of_group(first + i) - first;
#pragma unroll
        for (int t = s; t < kSlots; ++t)
          if (lane + 32 * t >= i && lane + 32 * t < end) parameters[t] = fitted;
      }
      const float value = __shfl_sync(kAll, weight[s], l);
      const Parameters own{__shfl_sync(kAll, parameters[s].scale, l),
                           __shfl_sync(kAll, parameters[s].offset, l)};
      const Rounded result = rounder.round(value, own, first + i);
      const float off = result.error / __ldg(upper + i);
      if (lane == l) {
        code[s] = result.code;
        rounded[s] = value;
        error[s] = off;
      }
      // Columns that are not later have shares of zero, and their weights are of no use any more.
#pragma unroll
      for (int t = s; t < kSlots; ++t) {
        if constexpr (kDrift) weight[t] = __fadd_rn(weight[t], __fmul_rn(value, drifts[t]));
        weight[t] = subtracted(weight[t], off, shares[t]);
      }
    }
  }

#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    const int j = lane + 32 * s;
    block.errors[row * kFeedbackColumns + j] = error[s];
    if (j >= block.width) continue;
    current[j] = rounded[s];
    rounder.store(first + j, code[s]);
  }
}

template <class Rounder, class Columns>
void launch(const FeedbackBlock& block, const Columns& columns, Stream stream) {
  if (block.rows == 0 || block.width == 0) return;
  const auto blocks = static_cast<unsigned>((block.rows + kWarps - 1) / kWarps);
  if (block.drift)
    round_rows<Rounder, Columns, true><<<blocks, 32 * kWarps, 0, stream>>>(block, columns);
  else
    round_rows<Rounder, Columns, false><<<blocks, 32 * kWarps, 0, stream>>>(block, columns);
  check_launch("round_rows", stream);
}

}  // namespace

void round_block(const FeedbackBlock& block, const AffineColumns& columns, Stream stream) {
  if (columns.rule.shares > 1)
    launch<AffineRounder<true>>(block, columns, stream);
  else
    launch<AffineRounder<false>>(block, columns, stream);
}

void round_block(const FeedbackBlock& block, const NestedColumns& columns, Stream stream) {
  launch<NestedRounder>(block, columns, stream);
}

}  // namespace grinqh::cuda
