#include "cuda/group_rounding.h"

#include "cuda/elements.cuh"
#include "cuda/typed_elements.cuh"
#include "cuda/warp_range.cuh"

namespace grinqh::cuda {

namespace {

// A warp has a group.
constexpr int kWarps = 8;

__device__ int64_t warp_index() { return static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32; }

unsigned blocks_for(int64_t warps) { return static_cast<unsigned>(ceil_div(warps, kWarps)); }

// Group number `index` of a matrix.
struct Place {
  int64_t row, begin, count;
  __device__ Place(int64_t index, int64_t in, int64_t group) {
    const int64_t groups = (in + group - 1) / group;
    row = index / groups;
    begin = index % groups * group;
    count = min(group, in - begin);
  }
};

struct Grid {
  float scale, zero;
};

// By the whole warp, each lane with what it has seen.
__device__ Grid fitted(float lowest, float highest, const GroupRounding& rounding) {
  const WeightRange range = covered_range(lowest, highest, rounding.rule.symmetric);
  const AffineGrid grid = grid_of_range(range, rounding.rule);
  // Positive floats ascend like their bits.
  if (!is_finite_half(grid.scale) && threadIdx.x % 32 == 0)
    atomicMax(rounding.too_large, __float_as_uint(exact_scale(range, rounding.rule)));
  return {from_half(grid.scale), static_cast<float>(grid.zero)};
}

template <class T>
__global__ __launch_bounds__(32 * kWarps) void round_scaled_kernel(const T* w, int64_t stride,
                                                                   const float* scales, int64_t rows,
                                                                   int64_t in, const GroupRounding rounding,
                                                                   T* to, int64_t to_stride) {
  const Place place(warp_index(), in, rounding.group);
  if (place.row >= rows) return;
  const T* from = w + place.row * stride + place.begin;
  const float* factors = scales + place.begin;
  const int lane = threadIdx.x % 32;
  const auto scaled = [&](int64_t i) { return product_of(to_float(from[i]), factors[i]); };
  float lowest = scaled(0), highest = lowest;
  for (int64_t i = lane; i < place.count; i += 32) {
    lowest = fminf(lowest, scaled(i));
    highest = fmaxf(highest, scaled(i));
  }
  const Grid grid = fitted(least_of_warp(lowest), greatest_of_warp(highest), rounding);
  const float top = rounding.rule.top_code();
  T* target = to + place.row * to_stride + place.begin;
  for (int64_t i = lane; i < place.count; i += 32)
    store(scaled_rounded(to_float(from[i]), factors[i], grid.scale, grid.zero, top), target + i);
}

__global__ __launch_bounds__(32 * kWarps) void clipped_errors_kernel(const float* weight, int64_t rows,
                                                                     int64_t in, float share,
                                                                     const GroupRounding rounding,
                                                                     float* errors) {
  const Place place(warp_index(), in, rounding.group);
  if (place.row >= rows) return;
  const float* from = weight + place.row * in + place.begin;
  const int lane = threadIdx.x % 32;
  float lowest = from[0], highest = lowest;
  for (int64_t i = lane; i < place.count; i += 32) {
    lowest = fminf(lowest, from[i]);
    highest = fmaxf(highest, from[i]);
  }
  lowest = least_of_warp(lowest);
  highest = greatest_of_warp(highest);
  const float limit = product_of(share, fmaxf(fabsf(lowest), fabsf(highest)));
  const Grid grid = fitted(clamped(lowest, -limit, limit), clamped(highest, -limit, limit), rounding);
  const float top = rounding.rule.top_code();
  float* target = errors + place.row * in + place.begin;
  for (int64_t i = lane; i < place.count; i += 32)
    target[i] = clipped_error(from[i], limit, grid.scale, grid.zero, top);
}

__global__ __launch_bounds__(32 * kWarps) void keep_least_kernel(const float* outputs, int64_t tokens,
                                                                 float share, const LeastClips clips) {
  const int64_t index = warp_index();
  if (index >= clips.rows * clips.groups) return;
  const float* output = outputs + index * tokens;
  double sum = 0;
  for (int64_t t = threadIdx.x % 32; t < tokens; t += 32) {
    const double value = static_cast<double>(output[t]);
    sum += value * value;
  }
  sum = lane_sum(sum);
  if (threadIdx.x % 32 != 0 || sum >= clips.least[index]) return;
  clips.least[index] = sum;
  clips.shares[index % clips.rows * clips.groups + index / clips.rows] = share;
}

}  // namespace

void round_scaled(ConstView w, const float* scales, const GroupRounding& rounding, View to, Stream stream) {
  if (empty(w)) return;
  const unsigned blocks = blocks_for(w.rows * ceil_div(w.cols, rounding.group));
  with_type(w.type, [&](auto zero) {
    using T = decltype(zero);
    round_scaled_kernel<T><<<blocks, 32 * kWarps, 0, stream>>>(static_cast<const T*>(w.data), w.stride,
                                                               scales, w.rows, w.cols, rounding,
                                                               static_cast<T*>(to.data), to.stride);
  });
  check_launch("round_scaled", stream);
}

void clipped_errors(const float* weight, int64_t rows, int64_t in, float share, const GroupRounding& rounding,
                    float* errors, Stream stream) {
  if (rows == 0 || in == 0) return;
  clipped_errors_kernel<<<blocks_for(rows * ceil_div(in, rounding.group)), 32 * kWarps, 0, stream>>>(
      weight, rows, in, share, rounding, errors);
  check_launch("clipped_errors", stream);
}

void keep_least(const float* outputs, int64_t tokens, float share, const LeastClips& clips, Stream stream) {
  if (clips.rows == 0 || clips.groups == 0) return;
  keep_least_kernel<<<blocks_for(clips.rows * clips.groups), 32 * kWarps, 0, stream>>>(outputs, tokens, share,
                                                                                       clips);
  check_launch("keep_least", stream);
}

}  // namespace grinqh::cuda
