#include "cuda/layer_nested.h"

#include "core/error.h"

namespace grinqh::cuda {

namespace {

template <class T>
Array<T> moved(std::span<const T> values, Transfers& transfers, Stream stream) {
  Array<T> to(std::ssize(values), stream);
  transfers.upload(Matrix<const T>(values.data(), 1, std::ssize(values)), to.data(), stream);
  return to;
}

}  // namespace

NestedPlaces places_of(const NestedGrids& grids, const uint16_t* scales, const uint16_t* minima) {
  return {0, grids.grid_rows, grids.row_stride, grids.grid_columns, grids.column_stride, scales, minima};
}

LayerPrefixes::LayerPrefixes(const NestedGrids& grids, std::span<PrefixSums> sums, Transfers& transfers,
                             Stream stream)
    : sums_(sums),
      stream_(stream),
      scales_(moved(grids.scales, transfers, stream)),
      minima_(moved(grids.minima, transfers, stream)),
      places_(places_of(grids, scales_.data(), minima_.data())) {
  check(std::ssize(sums) <= kMaxSummedLevels, "levels of a table");
  for (const PrefixSums& each : sums) {
    counts_.push_back(moved(each.counts, transfers, stream));
    levels_.level[levels_.count] = each.level;
    levels_.counts[levels_.count++] = each.counts.empty() ? nullptr : counts_.back().data();
  }
}

void LayerPrefixes::add(const float* weight, int64_t first_row, int64_t rows, int64_t in) {
  const int64_t entries = prefix_entries(levels_);
  if (entries == 0) return;
  const Array<double> scratch(prefix_scratch(rows, in, levels_), stream_), sums(2 * entries, stream_);
  NestedPlaces here = places_;
  here.first_row = first_row;
  cuda::sum_prefixes(weight, rows, in, here, levels_, scratch.data(), sums.data(), stream_);
  std::vector<double> found(static_cast<size_t>(2 * entries));
  to_host(sums.data(), found.data(), 2 * entries * static_cast<int64_t>(sizeof(double)), stream_);
  size_t at = 0;
  for (PrefixSums& each : sums_)
    for (size_t prefix = 0; prefix < each.weight.size(); ++prefix, ++at) {
      each.weight[prefix] += found[at];
      each.position[prefix] += found[at + static_cast<size_t>(entries)];
    }
}

void find_nested_errors(const NestedErrorTask& task, const float* weight, Transfers& transfers,
                        Stream stream) {
  const int64_t rows = task.weight.rows, in = task.weight.cols;
  const int levels = static_cast<int>(task.positions.rows);
  check(levels <= kMaxNestedLevels && std::ssize(task.levels) == levels && task.errors.rows == levels &&
            task.errors.cols == in,
        "nested errors: shapes");
  const Array<uint16_t> scales = moved(task.grids.scales, transfers, stream),
                        minima = moved(task.grids.minima, transfers, stream);
  const Array<float> positions(task.positions.rows * task.positions.cols, stream);
  transfers.upload(task.positions, positions.data(), stream);
  NestedErrors wanted{weight, rows, in, levels, positions.data(), {}};
  for (int k = 0; k < levels; ++k) wanted.read[k] = task.levels[static_cast<size_t>(k)] > 0;
  const Array<double> scratch(nested_error_scratch(wanted), stream), errors(levels * in, stream);
  cuda::nested_errors(wanted, places_of(task.grids, scales.data(), minima.data()), scratch.data(),
                      errors.data(), stream);
  transfers.download(errors.data(), task.errors, stream);
}

}  // namespace grinqh::cuda
