// The clusters of quant/weighted_kmeans.h, by a block of threads: the same borders but for the rounding of
// sums.
#pragma once

#include "quant/cluster_gain.h"

namespace grinqh::cuda {

inline constexpr int kClusterThreads = 256, kClusterWarps = kClusterThreads / 32;
// From this depth of the recursion on there are nodes enough for a thread each; above, a warp takes one.
inline constexpr int kThreadDepth = 8;

// A row in ascending order.
struct SortedPlaces {
  int n;
  const float *values, *weights;            // [n]
  const double *weight_sums, *moment_sums;  // [n + 1], as quant/weighted_kmeans.h
  __device__ double gain(int begin, int end) const {
    return cluster_gain(weight_sums, moment_sums, begin, end);
  }
};

__device__ inline void keep_better(double& most, int& found, double gain, int place) {
  if (gain > most || (gain == most && place < found)) most = gain, found = place;
}
__device__ inline void best_of_warp(double& most, int& found) {
  for (int step = 16; step > 0; step /= 2)
    keep_better(most, found, __shfl_xor_sync(~0u, most, step), __shfl_xor_sync(~0u, found, step));
}
__device__ inline double sum_of_warp(double sum) {
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  return sum;
}

// The dynamic program over clusters: cluster c is to begin where the gain of all before it and its own is the
// greatest.
struct PartitionState {
  const double* best;  // [n + 1]: greatest gain of the first i values with one cluster less
  double* next;
  const int* before;  // [n + 1]: where the cluster before begins if it ends at i
  int* begins;        // of this cluster
};

// The first m of [low, high] that gains the most, searched by `lanes` lanes that each begin at `lane`.
__device__ inline void search_begin(const SortedPlaces& row, const double* best, int i, int low, int high,
                                    int lane, int lanes, double& most, int& found) {
  most = -INFINITY;
  found = low;
  for (int m = low + lane; m <= high; m += lanes) {
    const double gain = best[m] + row.gain(m, i);
    if (gain > most) most = gain, found = m;
  }
}

// Ends [first, last] of node `index` at a depth of the recursion; false if there is no such node.
__device__ inline bool node_at(int depth, int index, int& first, int& last) {
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
__device__ inline void solve_cluster(const SortedPlaces& row, const PartitionState& state, int c) {
  int depths = 0;
  while ((1 << depths) <= row.n) ++depths;
  for (int depth = 0; depth < depths; ++depth) {
    const bool by_warp = depth < kThreadDepth;
    const int lanes = by_warp ? 32 : 1, lane = by_warp ? static_cast<int>(threadIdx.x) % 32 : 0;
    for (int index = static_cast<int>(threadIdx.x) / lanes; index < (1 << depth);
         index += kClusterThreads / lanes) {
      int first = c + 1, last = row.n;
      if (!node_at(depth, index, first, last)) continue;
      const int i = first + (last - first) / 2;
      int low = first > c + 1 ? state.begins[first - 1] : c;
      int high = last < row.n ? state.begins[last + 1] : row.n - 1;
      low = max(low, state.before[i]);
      high = min(high, i - 1);
      double most;
      int found;
      search_begin(row, state.best, i, low, high, lane, lanes, most, found);
      if (by_warp) best_of_warp(most, found);
      if (lane == 0) {
        state.next[i] = most;
        state.begins[i] = found;
      }
    }
    __syncthreads();
  }
}

// The weighted mean of the places [begin, end), the plain one where nothing has weight; by a warp, to all its
// lanes. begin < end.
__device__ inline double centroid_by_warp(const SortedPlaces& row, int begin, int end) {
  double total = 0, moment = 0, sum = 0;
  for (int i = begin + static_cast<int>(threadIdx.x) % 32; i < end; i += 32) {
    const double weight = row.weights[i], value = row.values[i];
    total += weight;
    moment += weight * value;
    sum += value;
  }
  total = sum_of_warp(total);
  moment = sum_of_warp(moment);
  sum = sum_of_warp(sum);
  const double mean = total > 0 ? moment / total : sum / (end - begin);
  return fmin(fmax(mean, static_cast<double>(row.values[begin])), static_cast<double>(row.values[end - 1]));
}

// The border between two neighbouring clusters, with values of weight zero at it: halfway between centroids.
__device__ inline int halfway_by_warp(const SortedPlaces& row, int begin, int border, int end) {
  const double middle = 0.5 * (centroid_by_warp(row, begin, border) + centroid_by_warp(row, border, end));
  while (border - 1 > begin && row.values[border - 1] > middle) --border;
  while (border + 1 < end && row.values[border] < middle) ++border;
  return border;
}

// Where [begin, end) is best cut in two; end if all its values are the same. By a warp.
__device__ inline int split_by_warp(const SortedPlaces& row, int begin, int end) {
  double most = -1;
  int cut = end;
  for (int m = begin + 1 + static_cast<int>(threadIdx.x) % 32; m < end; m += 32) {
    if (row.values[m] == row.values[begin] || row.values[m - 1] == row.values[end - 1]) continue;
    const double gain = row.gain(begin, m) + row.gain(m, end);
    if (gain > most) most = gain, cut = m;
  }
  best_of_warp(most, cut);
  return cut == end ? end : halfway_by_warp(row, begin, cut, end);
}

}  // namespace grinqh::cuda
