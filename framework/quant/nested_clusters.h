// Codes whose prefixes are clusters: the clusters of a few bits, found optimally, are cut in two bit by bit,
// so that the b-bit code of a weight is the b leading bits of its longest one (incremental upscaling).
#pragma once

#include <string>
#include <vector>

#include "core/matrix.h"
#include "quant/outliers.h"
#include "quant/sensitivity.h"

namespace grinqh {

struct NestedClusters {
  int seed = 0, parent = 0;     // bits of the first and the last level
  MatrixBuffer<uint8_t> codes;  // [out, in], of `parent` bits
  // Centroids as float16 of level seed + l: [out, 2^(seed + l)], ascending within a row. A code that no
  // weight has repeats a neighbour's centroid.
  std::vector<MatrixBuffer<uint16_t>> tables;
};

// Every row by itself, in intervals of its sorted weights: 2^seed optimal clusters of sensitivity-weighted
// squared error, then the optimal cut of each for every further bit. Outliers have a code but no say.
// BadInput naming the layer if a centroid does not fit into float16.
NestedClusters cluster_rows(const std::string& layer, Matrix<const float> weight,
                            const Sensitivity& sensitivity, const Outliers& outliers, int seed, int parent);

// What an accelerator is asked for: rows without outliers, of at least 2^seed values each.
struct ClusterTask {
  Matrix<const float> values, weights;          // [rows, width]
  std::span<const int> sizes;                   // [rows]: values of a row that count, its first; empty: all
  int seed, parent;                             // bits
  Matrix<uint8_t> codes;                        // [rows, width]
  std::vector<MatrixBuffer<uint16_t>>& tables;  // as above; infinite where a centroid does not fit
  int64_t first_row = 0;                        // of `tables` that is written
};

}  // namespace grinqh
