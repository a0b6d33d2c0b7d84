#include "cuda/nested_fit.h"

#include "cuda/column_errors.h"
#include "cuda/nested_places.cuh"

namespace grinqh::cuda {

namespace {

constexpr int kSumThreads = 64;    // neighbouring columns
constexpr int64_t kSumRows = 512;  // that one block adds up
constexpr int kErrorThreads = 128;
constexpr int64_t kErrorRows = 128;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t sum_parts(int64_t rows, int64_t in) { return ceil_div(rows, kSumRows) * ceil_div(in, kSumThreads); }

// Every thread has sums of its own in shared memory, [2, entries, threads], so that none are added in an
// order that could differ; the block then adds up its threads'.
__global__ void __launch_bounds__(kSumThreads)
    sum_prefixes_kernel(const float* weight, int64_t rows, int64_t in, const NestedPlaces places,
                        const PrefixLevels levels, int entries, double* scratch) {
  extern __shared__ double prefix_sums[];
  double* const own = prefix_sums + threadIdx.x;
  for (int i = 0; i < 2 * entries; ++i) own[i * kSumThreads] = 0;
  const int64_t column = int64_t{blockIdx.x} * kSumThreads + threadIdx.x;
  if (column < in) {
    double counts[kMaxSummedLevels];
    for (int k = 0; k < kMaxSummedLevels; ++k)
      counts[k] = k < levels.count && levels.counts[k] ? static_cast<double>(levels.counts[k][column]) : 1.0;
    ColumnGrids grids(places, column);
    const int64_t first = int64_t{blockIdx.y} * kSumRows, end = min(first + kSumRows, rows);
    for (int64_t row = first; row < end; ++row) {
      const NestedGrid grid = grids.at(row);
      const float value = weight[row * in + column];
      const double position = static_cast<double>(nested_position(value, grid.scale, grid.minimum));
      const int code = nested_code(value, grid.scale, grid.minimum);
      const double square = static_cast<double>(grid.scale) * static_cast<double>(grid.scale);
      int base = 0;
#pragma unroll
      for (int k = 0; k < kMaxSummedLevels; ++k) {
        if (k >= levels.count) break;
        const int at = (base + (code >> (8 - levels.level[k]))) * kSumThreads;
        const double each = square * counts[k];
        own[at] += each;
        own[at + entries * kSumThreads] += each * position;
        base += 1 << levels.level[k];
      }
    }
  }
  __syncthreads();
  const int64_t part = int64_t{blockIdx.y} * gridDim.x + blockIdx.x;
  for (int i = threadIdx.x; i < 2 * entries; i += kSumThreads) {
    double sum = 0;
    // Each thread begins at another place, so that they meet in no bank; always the same one.
    for (int t = 0; t < kSumThreads; ++t)
      sum += prefix_sums[i * kSumThreads + (t + threadIdx.x) % kSumThreads];
    scratch[part * 2 * entries + i] = sum;
  }
}

// scratch: [parts, levels, in]
__global__ void __launch_bounds__(kErrorThreads)
    nested_errors_kernel(const NestedErrors task, const NestedPlaces places, double* scratch) {
  __shared__ float positions[kMaxNestedLevels * kNestedCodes];
  for (int i = threadIdx.x; i < task.levels * kNestedCodes; i += kErrorThreads)
    positions[i] = task.positions[i];
  __syncthreads();
  const int64_t column = int64_t{blockIdx.x} * kErrorThreads + threadIdx.x;
  if (column >= task.in) return;
  double sums[kMaxNestedLevels] = {};
  ColumnGrids grids(places, column);
  const int64_t first = int64_t{blockIdx.y} * kErrorRows, end = min(first + kErrorRows, task.rows);
  for (int64_t row = first; row < end; ++row) {
    const NestedGrid grid = grids.at(row);
    const float value = task.weight[row * task.in + column];
    const int code = nested_code(value, grid.scale, grid.minimum);
#pragma unroll
    for (int k = 0; k < kMaxNestedLevels; ++k) {
      if (k >= task.levels) break;
      const float position = positions[k * kNestedCodes + code];
      const float decoded = task.read[k] ? __fadd_rn(grid.minimum, product_of(grid.scale, position)) : 0.0f;
      const double difference = static_cast<double>(value) - static_cast<double>(decoded);
      sums[k] += difference * difference;
    }
  }
#pragma unroll
  for (int k = 0; k < kMaxNestedLevels; ++k)
    if (k < task.levels) scratch[(int64_t{blockIdx.y} * task.levels + k) * task.in + column] = sums[k];
}

}  // namespace

int64_t prefix_entries(const PrefixLevels& levels) {
  int64_t entries = 0;
  for (int k = 0; k < levels.count; ++k) entries += int64_t{1} << levels.level[k];
  return entries;
}

int64_t prefix_scratch(int64_t rows, int64_t in, const PrefixLevels& levels) {
  return sum_parts(rows, in) * 2 * prefix_entries(levels);
}

void sum_prefixes(const float* weight, int64_t rows, int64_t in, const NestedPlaces& places,
                  const PrefixLevels& levels, double* scratch, double* sums, Stream stream) {
  const int64_t entries = prefix_entries(levels), parts = sum_parts(rows, in);
  if (parts > 0) {
    const auto bytes = static_cast<int>(2 * entries * kSumThreads * static_cast<int64_t>(sizeof(double)));
    check_call(cudaFuncSetAttribute(sum_prefixes_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
               "shared memory of sum_prefixes_kernel");
    const dim3 grid(static_cast<unsigned>(ceil_div(in, kSumThreads)),
                    static_cast<unsigned>(ceil_div(rows, kSumRows)));
    sum_prefixes_kernel<<<grid, kSumThreads, static_cast<size_t>(bytes), stream>>>(
        weight, rows, in, places, levels, static_cast<int>(entries), scratch);
    check_launch("sum_prefixes", stream);
  }
  add_parts(scratch, parts, 2 * entries, sums, stream);
}

int64_t nested_error_scratch(const NestedErrors& task) {
  return ceil_div(task.rows, kErrorRows) * task.levels * task.in;
}

void nested_errors(const NestedErrors& task, const NestedPlaces& places, double* scratch, double* errors,
                   Stream stream) {
  if (task.in == 0 || task.levels == 0) return;
  const int64_t parts = ceil_div(task.rows, kErrorRows);
  if (parts > 0) {
    const dim3 grid(static_cast<unsigned>(ceil_div(task.in, kErrorThreads)), static_cast<unsigned>(parts));
    nested_errors_kernel<<<grid, kErrorThreads, 0, stream>>>(task, places, scratch);
    check_launch("nested_errors", stream);
  }
  add_parts(scratch, parts, task.levels * task.in, errors, stream);
}

}  // namespace grinqh::cuda
