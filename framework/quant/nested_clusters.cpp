#include "quant/nested_clusters.h"

#include <algorithm>
#include <cmath>

#include "core/dtype.h"
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

}  // namespace

NestedClusters cluster_rows(const std::string& layer, Matrix<const float> weight,
                            const Sensitivity& sensitivity, const Outliers& outliers, int seed, int parent) {
  check(1 <= seed && seed <= parent && parent <= 8, "clusters: 1 <= seed <= parent <= 8 bits");
  NestedClusters result{seed, parent, MatrixBuffer<uint8_t>::zeroed(weight.rows, weight.cols), {}};
  for (int bits = seed; bits <= parent; ++bits)
    result.tables.push_back(MatrixBuffer<uint16_t>::zeroed(weight.rows, int64_t{1} << bits));
  // Rows at a time: enough to ask an accelerator for, at about 50 bytes a value.
  constexpr int64_t kValues = int64_t{1} << 21;
  const int64_t step = std::max<int64_t>(1, kValues / std::max<int64_t>(1, weight.cols));
  for (int64_t first = 0; first < weight.rows; first += step) {
    const int64_t count = std::min(step, weight.rows - first);
    std::vector<DenseRow> dense(static_cast<size_t>(count));
    std::vector<SortedRow> rows(dense.size());
    parallel_for(count, [&](int64_t i) {
      const int64_t r = first + i;
      DenseRow& values = dense[static_cast<size_t>(i)];
      values = DenseRow(weight.row_span(r), sensitivity.row(r), outliers.of_row(r));
      rows[static_cast<size_t>(i)] = SortedRow(values.values, values.weights);
    });
    const std::vector<std::vector<int>> clusters = optimal_clusters(rows, 1 << seed);
    parallel_for(count, [&](int64_t i) {
      const int64_t r = first + i;
      const auto at = static_cast<size_t>(i);
      const SortedRow& row = rows[at];
      std::vector<int> borders = clusters[at];
      for (size_t level = 0;; ++level) {
        write_centroids(layer, row, borders, result.tables[level].row(r));
        if (level + 1 == result.tables.size()) break;
        borders = cut_in_two(row, borders);
      }
      for (size_t code = 0; code + 1 < borders.size(); ++code)
        for (int place = borders[code]; place < borders[code + 1]; ++place)
          result.codes.row(r)[dense[at].columns[static_cast<size_t>(row.index(place))]] =
              static_cast<uint8_t>(code);
    });
  }
  return result;
}

}  // namespace grinqh
