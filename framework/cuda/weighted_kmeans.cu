#include "cuda/weighted_kmeans.h"

#include "quant/cluster_gain.h"

namespace grinqh::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kBlocks = 1024;  // rows that are worked on at a time
// From this depth of the recursion on there are nodes enough for a thread each; above, a warp takes one.
constexpr int kThreadDepth = 8;

int64_t blocks_of(const PartitionRows& rows) { return rows.count < kBlocks ? rows.count : kBlocks; }

// Of one block.
__host__ __device__ int64_t workspace_of(int sums, int k) {
  return (static_cast<int64_t>(sums) * (2 * 8 + 4 * k) + 7) / 8 * 8;
}

struct Row {
  const double *weight_sums, *moment_sums;
  const double* best;  // [n + 1]: greatest gain of the first i values with one cluster less
  double* next;
  const int* before;  // [n + 1]: where the cluster before begins if it ends at i
  int* begins;        // of this cluster

  __device__ double gain(int m, int i) const {
    return best[m] + cluster_gain(weight_sums, moment_sums, m, i);
  }
};

// The first m of [low, high] that gains the most, searched by `lanes` lanes that each begin at `lane`.
__device__ void search(const Row& row, int i, int low, int high, int lane, int lanes, double& most,
                       int& found) {
  most = -INFINITY;
  found = low;
  for (int m = low + lane; m <= high; m += lanes) {
    const double gain = row.gain(m, i);
    if (gain > most) most = gain, found = m;
  }
}

__device__ void reduce_warp(double& most, int& found) {
  for (int step = 16; step > 0; step /= 2) {
    const double other = __shfl_xor_sync(~0u, most, step);
    const int place = __shfl_xor_sync(~0u, found, step);
    if (other > most || (other == most && place < found)) most = other, found = place;
  }
}

// Ends [first, last] of node `index` at a depth of the recursion over [1, n]; false if there is no such node.
__device__ bool node_at(int depth, int index, int& first, int& last) {
  for (int bit = depth - 1; bit >= 0 && first <= last; --bit) {
    const int middle = first + (last - first) / 2;
    if (index >> bit & 1)
      first = middle + 1;
    else
      last = middle - 1;
  }
  return first <= last;
}

// All ends of cluster c: what the CPU does by recursion, a depth at a time. The bounds of a node's middle are
// what its neighbours on both sides found, which are its ancestors.
__device__ void solve(const Row& row, int c, int n) {
  int depths = 0;
  while ((1 << depths) <= n) ++depths;
  for (int depth = 0; depth < depths; ++depth) {
    const bool by_warp = depth < kThreadDepth;
    const int lanes = by_warp ? 32 : 1, lane = by_warp ? threadIdx.x % 32 : 0;
    for (int index = threadIdx.x / lanes; index < (1 << depth); index += kThreads / lanes) {
      int first = c + 1, last = n;
      if (!node_at(depth, index, first, last)) continue;
      const int i = first + (last - first) / 2;
      int low = first > c + 1 ? row.begins[first - 1] : c, high = last < n ? row.begins[last + 1] : n - 1;
      low = max(low, row.before[i]);
      high = min(high, i - 1);
      double most;
      int found;
      search(row, i, low, high, lane, lanes, most, found);
      if (by_warp) reduce_warp(most, found);
      if (lane == 0) {
        row.next[i] = most;
        row.begins[i] = found;
      }
    }
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kThreads)
    partition_kernel(PartitionRows rows, int k, char* workspace, int* borders) {
  char* own = workspace + blockIdx.x * workspace_of(rows.most_sums, k);
  auto* best = reinterpret_cast<double*>(own);
  double* next = best + rows.most_sums;
  int* begins = reinterpret_cast<int*>(next + rows.most_sums);
  for (int64_t r = blockIdx.x; r < rows.count; r += gridDim.x) {
    const int64_t offset = rows.offsets[r];
    const int n = static_cast<int>(rows.offsets[r + 1] - offset) - 1;
    Row row{rows.weight_sums + offset, rows.moment_sums + offset, nullptr, nullptr, nullptr, nullptr};
    for (int i = threadIdx.x; i <= n; i += kThreads) {
      best[i] = i == 0 ? 0.0 : cluster_gain(row.weight_sums, row.moment_sums, 0, i);
      for (int c = 0; c < k; ++c) begins[static_cast<int64_t>(c) * rows.most_sums + i] = 0;
    }
    __syncthreads();
    for (int c = 1; c < k; ++c) {
      row.best = best;
      row.next = next;
      row.before = begins + static_cast<int64_t>(c - 1) * rows.most_sums;
      row.begins = begins + static_cast<int64_t>(c) * rows.most_sums;
      if (c < k - 1) {
        solve(row, c, n);
      } else if (threadIdx.x < 32) {  // all that is asked of the last cluster
        double most;
        int found;
        search(row, n, max(c, row.before[n]), n - 1, threadIdx.x, 32, most, found);
        reduce_warp(most, found);
        if (threadIdx.x == 0) row.begins[n] = found;
      }
      __syncthreads();
      double* swapped = best;
      best = next;
      next = swapped;
    }
    if (threadIdx.x == 0) {
      int* to = borders + r * (k + 1);
      to[0] = 0;
      to[k] = n;
      for (int c = k - 1; c > 0; --c) to[c] = begins[static_cast<int64_t>(c) * rows.most_sums + to[c + 1]];
    }
    __syncthreads();
  }
}

}  // namespace

int64_t partition_workspace(const PartitionRows& rows, int k) {
  return blocks_of(rows) * workspace_of(rows.most_sums, k);
}

void partition(const PartitionRows& rows, int k, void* workspace, int* borders, Stream stream) {
  if (rows.count == 0) return;
  partition_kernel<<<static_cast<unsigned>(blocks_of(rows)), kThreads, 0, stream>>>(
      rows, k, static_cast<char*>(workspace), borders);
  check_launch("partition", stream);
}

}  // namespace grinqh::cuda
