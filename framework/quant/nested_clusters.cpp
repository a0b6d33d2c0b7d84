#include "quant/nested_clusters.h"

#include <algorithm>
#include <cmath>

#include "core/accelerator.h"
#include "core/half.h"
#include "core/parallel.h"
#include "quant/weighted_kmeans.h"

namespace grinqh {

namespace {

// A row without its outliers.
struct DenseRow {
  std::vector<int> columns;
  std::vector<float> values, weights;

  DenseRow() = default;
  DenseRow(std::span<const float> row, std::span<const float> sensitivity,
           std::span<const uint32_t> outliers) {
    const size_t count = row.size() - outliers.size();
    columns.reserve(count);
    values.reserve(count);
    weights.reserve(count);
    auto skipped = outliers.begin();
    for (size_t i = 0; i < row.size(); ++i) {
      if (skipped != outliers.end() && *skipped == i) {
        ++skipped;
        continue;
      }
      columns.push_back(static_cast<int>(i));
      values.push_back(row[i]);
      weights.push_back(sensitivity[i]);
    }
  }
};

// Borders of twice as many clusters: the children of cluster c are 2c and 2c + 1.
std::vector<int> cut_in_two(const SortedRow& row, const std::vector<int>& borders) {
  std::vector<int> finer;
  for (size_t c = 0; c + 1 < borders.size(); ++c) {
    finer.push_back(borders[c]);
    finer.push_back(optimal_split(row, borders[c], borders[c + 1]));
  }
  finer.push_back(borders.back());
  return finer;
}

// Centroids of a level, [borders.size() - 1]. An empty cluster takes its left neighbour's: clusters run empty
// from the right, as the right child of what cannot be cut or, in a row of fewer values than clusters, at its
// end.
void write_centroids(const std::string& layer, const SortedRow& row, const std::vector<int>& borders,
                     uint16_t* to) {
  uint16_t last = 0;
  for (size_t c = 0; c + 1 < borders.size(); ++c) {
    if (borders[c] < borders[c + 1]) {
      const auto centroid = static_cast<float>(row.centroid(borders[c], borders[c + 1]));
      last = to_half(centroid);
      if (!std::isfinite(from_half(last)))
        bad_input("{}: a centroid of {} does not fit into float16", layer, centroid);
    }
    to[c] = last;
  }
}

void cluster_row(const std::string& layer, const DenseRow& dense, int64_t r, NestedClusters& result) {
  const SortedRow row(dense.values, dense.weights);
  std::vector<int> borders = optimal_clusters(row, 1 << result.seed);
  for (size_t level = 0;; ++level) {
    write_centroids(layer, row, borders, result.tables[level].row(r));
    if (level + 1 == result.tables.size()) break;
    borders = cut_in_two(row, borders);
  }
  for (size_t code = 0; code + 1 < borders.size(); ++code)
    for (int place = borders[code]; place < borders[code + 1]; ++place)
      result.codes.row(r)[dense.columns[static_cast<size_t>(row.index(place))]] = static_cast<uint8_t>(code);
}

// Rows with outliers are moved together first, some at a time.
void cluster_without_outliers(Accelerator& device, Matrix<const float> weight, const Sensitivity& sensitivity,
                              const Outliers& outliers, NestedClusters& result) {
  constexpr int64_t kValues = int64_t{1} << 26;
  const int64_t step = std::clamp<int64_t>(kValues / weight.cols, 1, weight.rows);
  MatrixBuffer<float> values(step, weight.cols), weights(step, weight.cols);
  MatrixBuffer<uint8_t> codes(step, weight.cols);
  std::vector<int> sizes(static_cast<size_t>(step));
  for (int64_t first = 0; first < weight.rows; first += step) {
    const int64_t count = std::min(step, weight.rows - first);
    parallel_for(count, [&](int64_t i) {
      const int64_t r = first + i;
      const DenseRow dense(weight.row_span(r), sensitivity.row(r), outliers.of_row(r));
      std::ranges::copy(dense.values, values.row(i));
      std::ranges::copy(dense.weights, weights.row(i));
      sizes[static_cast<size_t>(i)] = static_cast<int>(dense.values.size());
    });
    device.cluster_rows({values.view().rows_between(0, count), weights.view().rows_between(0, count),
                         std::span(sizes).first(static_cast<size_t>(count)), result.seed, result.parent,
                         codes.view().rows_between(0, count), result.tables, first});
    parallel_for(count, [&](int64_t i) {
      const int64_t r = first + i;
      auto skipped = outliers.of_row(r).begin();
      const uint8_t* code = codes.row(i);
      for (int64_t column = 0; column < weight.cols; ++column) {
        if (skipped != outliers.of_row(r).end() && *skipped == column)
          ++skipped;
        else
          result.codes.row(r)[column] = *code++;
      }
    });
  }
}

bool all_finite(const NestedClusters& clusters, int64_t row) {
  return std::ranges::all_of(clusters.tables, [&](const MatrixBuffer<uint16_t>& table) {
    return std::all_of(table.row(row), table.row(row) + table.cols(), is_finite_half);
  });
}

}  // namespace

NestedClusters cluster_rows(const std::string& layer, Matrix<const float> weight,
                            const Sensitivity& sensitivity, const Outliers& outliers, int seed, int parent) {
  check(1 <= seed && seed <= parent && parent <= 8, "clusters: 1 <= seed <= parent <= 8 bits");
  NestedClusters result{seed, parent, MatrixBuffer<uint8_t>(weight.rows, weight.cols), {}};
  for (int bits = seed; bits <= parent; ++bits) result.tables.emplace_back(weight.rows, int64_t{1} << bits);
  const auto on_host = [&](int64_t r) {
    std::fill_n(result.codes.row(r), weight.cols, uint8_t{0});  // outliers'
    for (MatrixBuffer<uint16_t>& table : result.tables) std::fill_n(table.row(r), table.cols(), uint16_t{0});
    cluster_row(layer, DenseRow(weight.row_span(r), sensitivity.row(r), outliers.of_row(r)), r, result);
  };
  int64_t most_outliers = 0;
  for (int64_t r = 0; r < weight.rows; ++r)
    most_outliers = std::max(most_outliers, std::ssize(outliers.of_row(r)));
  const std::shared_ptr<Accelerator> device = accelerator();
  if (!device || weight.empty() || weight.cols - most_outliers < (1 << seed)) {
    parallel_for(weight.rows, on_host);
    return result;
  }
  if (outliers.none()) {
    device->cluster_rows(
        {weight, sensitivity.rows(weight.rows), {}, seed, parent, result.codes.view(), result.tables});
  } else {
    std::fill_n(result.codes.data(), result.codes.size(), uint8_t{0});
    cluster_without_outliers(*device, weight, sensitivity, outliers, result);
  }
  parallel_for(weight.rows, [&](int64_t r) {
    if (!all_finite(result, r)) on_host(r);  // which says what does not fit
  });
  return result;
}

}  // namespace grinqh
