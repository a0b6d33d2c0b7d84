// The dynamic program of quant/weighted_kmeans.h for many rows at once.
#pragma once

#include "cuda/types.h"

namespace grinqh::cuda {

// Rows one after the other: row r has the prefix sums [offsets[r], offsets[r + 1]), one more than values.
struct PartitionRows {
  const double *weight_sums = nullptr, *moment_sums = nullptr;
  const int64_t* offsets = nullptr;  // [count + 1]
  int64_t count = 0;
  int most_sums = 0;  // of a row
};

// Bytes of workspace that the kernel wants for rows of so many sums.
int64_t partition_workspace(const PartitionRows& rows, int k);

// borders: [count, k + 1], the same as the CPU's.
void partition(const PartitionRows& rows, int k, void* workspace, int* borders, Stream stream);

}  // namespace grinqh::cuda
