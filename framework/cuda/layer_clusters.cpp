#include "cuda/layer_clusters.h"

#include <algorithm>

#include "core/error.h"
#include "cuda/memory.h"
#include "cuda/row_clusters.h"

namespace grinqh::cuda {

void cluster_layer(const ClusterTask& task, Transfers& transfers, Stream stream) {
  constexpr int64_t kSlabValues = int64_t{1} << 26;
  const int64_t width = task.values.cols, count = task.values.rows;
  check(task.weights.rows == count && task.weights.cols == width && task.codes.cols == width,
        "clusters: shapes");
  const int64_t slab = std::clamp<int64_t>(kSlabValues / width, 1, count);
  const int64_t entries = (int64_t{2} << task.parent) - (int64_t{1} << task.seed);  // of a row's tables
  const bool shared = task.weights.stride == 0;
  const Array<float> values(slab * width, stream), weights((shared ? 1 : slab) * width, stream);
  const Array<int> sizes(task.sizes.empty() ? 0 : slab, stream);
  const Array<uint8_t> codes(slab * width, stream);
  const Array<uint16_t> tables(slab * entries, stream);
  ClusterRows rows{values.data(),           weights.data(), shared,      nullptr,      slab,
                   static_cast<int>(width), task.seed,      task.parent, codes.data(), tables.data()};
  const Bytes workspace(cluster_workspace(rows), stream);
  if (shared) transfers.upload(task.weights.rows_between(0, 1), weights.data(), stream);
  for (int64_t first = 0; first < count; first += slab) {
    rows.count = std::min(slab, count - first);
    const int64_t end = first + rows.count;
    transfers.upload(task.values.rows_between(first, end), values.data(), stream);
    if (!shared) transfers.upload(task.weights.rows_between(first, end), weights.data(), stream);
    if (!task.sizes.empty()) {
      transfers.upload(Matrix<const int>(task.sizes.data() + first, 1, rows.count), sizes.data(), stream);
      rows.sizes = sizes.data();
    }
    cluster(rows, workspace.data(), stream);
    transfers.download(codes.data(), task.codes.rows_between(first, end), stream);
    for (int level = task.seed; level <= task.parent; ++level)
      transfers.download(tables.data() + cluster_table(rows, level),
                         task.tables[static_cast<size_t>(level - task.seed)].view().rows_between(
                             task.first_row + first, task.first_row + end),
                         stream);
  }
}

}  // namespace grinqh::cuda
