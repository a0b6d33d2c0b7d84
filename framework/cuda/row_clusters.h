// quant/nested_clusters.h for many rows at once: sorting, the dynamic program and the cuts.
#pragma once

#include "core/host_device.h"
#include "cuda/types.h"

namespace grinqh::cuda {

struct ClusterRows {
  const float* values = nullptr;   // [count, width]
  const float* weights = nullptr;  // [count, width], or [width] if `shared_weights`
  bool shared_weights = false;
  const int* sizes = nullptr;  // [count]: how many values of a row count; null: all
  int64_t count = 0;
  int width = 0;
  int seed = 0, parent = 0;    // bits
  uint8_t* codes = nullptr;    // [count, width]
  uint16_t* tables = nullptr;  // float16; of every level from seed to parent: [count, 2^level]
};

// First entry of a level's tables.
GRINQH_BOTH constexpr int64_t cluster_table(const ClusterRows& rows, int level) {
  return rows.count * ((int64_t{1} << level) - (int64_t{1} << rows.seed));
}

// Bytes of workspace that cluster() wants.
int64_t cluster_workspace(const ClusterRows& rows);

// Rows have at least 2^seed values. Centroids that do not fit into float16 are written as infinite.
void cluster(const ClusterRows& rows, void* workspace, Stream stream);

}  // namespace grinqh::cuda
