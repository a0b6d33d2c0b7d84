#include "cuda/row_clusters.h"

#include "core/half.h"
#include "cuda/row_sort.cuh"
#include "cuda/weighted_kmeans.cuh"

namespace grinqh::cuda {

namespace {

static_assert(kSortThreads == kClusterThreads);
constexpr int kThreads = kClusterThreads, kWarps = kClusterWarps;
constexpr int64_t kBlocks = 1056;  // rows that are worked on at a time
constexpr int64_t kMostWorkspace = int64_t{2} << 30;
constexpr int kMostClusters = 256;

// One block's part of the workspace.
struct Workspace {
  double *weight_sums, *moment_sums, *best, *next;  // [width + 1]
  SortedPairs pairs, other;                         // [width]
  int* begins;                                      // [2^seed][width + 1]

  static __host__ __device__ int64_t sums(int width) { return int64_t{width} + 1; }
  static __host__ __device__ int64_t bytes(int width, int seed) {
    return (sums(width) * (4 * 8 + 4 * 4 + (int64_t{4} << seed)) + 15) / 16 * 16;
  }
  __device__ Workspace(char* all, int width, int seed) {
    const int64_t count = sums(width);
    auto* doubles = reinterpret_cast<double*>(all + blockIdx.x * bytes(width, seed));
    weight_sums = doubles;
    moment_sums = doubles + count;
    best = doubles + 2 * count;
    next = doubles + 3 * count;
    auto* words = reinterpret_cast<uint32_t*>(doubles + 4 * count);
    pairs = {words, words + count};
    other = {words + 2 * count, words + 3 * count};
    begins = reinterpret_cast<int*>(words + 4 * count);
  }
};

struct Shared {
  union {
    SortScratch sort;
    double sums[2][kWarps];
  };
  int borders[2][kMostClusters + 1];
  uint16_t centroids[kMostClusters];
};

// Of two values a thread, to all threads.
__device__ void sum_of_block(double& a, double& b, Shared& shared) {
  a = sum_of_warp(a);
  b = sum_of_warp(b);
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    shared.sums[0][threadIdx.x / 32] = a;
    shared.sums[1][threadIdx.x / 32] = b;
  }
  __syncthreads();
  a = b = 0;
  for (int w = 0; w < kWarps; ++w) a += shared.sums[0][w], b += shared.sums[1][w];
}

// Prefix sums over a tile of one value a thread; `sum` becomes what they end with.
__device__ double prefix_of_block(double value, double& sum, double* partial) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  for (int step = 1; step < 32; step *= 2) {
    const double left = __shfl_up_sync(~0u, value, step);
    if (lane >= step) value += left;
  }
  __syncthreads();
  if (lane == 31) partial[warp] = value;
  __syncthreads();
  double before = sum;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += partial[w];
    sum += partial[w];
  }
  return before + value;
}

// Sorts the row and adds it up.
__device__ SortedPlaces sorted(const ClusterRows& rows, int64_t r, const Workspace& work, Shared& shared) {
  const int thread = static_cast<int>(threadIdx.x);
  const int n = rows.sizes ? rows.sizes[r] : rows.width;
  const float* values = rows.values + r * rows.width;
  const float* given = rows.weights + (rows.shared_weights ? 0 : r * rows.width);
  bool any = false;
  for (int i = thread; i < n; i += kThreads) {
    work.pairs.keys[i] = sort_key(values[i]);
    work.pairs.places[i] = static_cast<uint32_t>(i);
    any |= given[i] != 0;
  }
  const bool uniform = !__syncthreads_or(any);
  sort_row(work.pairs, work.other, n, shared.sort);

  auto* ordered = reinterpret_cast<float*>(work.other.keys);
  auto* weights = reinterpret_cast<float*>(work.other.places);
  double total = 0, moment = 0;
  for (int i = thread; i < n; i += kThreads) {
    ordered[i] = value_of_key(work.pairs.keys[i]);
    weights[i] = uniform ? 1.0f : given[work.pairs.places[i]];
    total += static_cast<double>(weights[i]);
    moment += static_cast<double>(weights[i]) * static_cast<double>(ordered[i]);
  }
  sum_of_block(total, moment, shared);
  const double mean = total > 0 ? moment / total : 0.0;
  double weight_sum = 0, moment_sum = 0;
  if (thread == 0) work.weight_sums[0] = work.moment_sums[0] = 0;
  for (int begin = 0; begin < n; begin += kThreads) {
    const int i = begin + thread;
    const double weight = i < n ? static_cast<double>(weights[i]) : 0.0;
    const double distance = i < n ? static_cast<double>(ordered[i]) - mean : 0.0;
    const double weight_here = prefix_of_block(weight, weight_sum, shared.sums[0]);
    const double moment_here = prefix_of_block(weight * distance, moment_sum, shared.sums[1]);
    if (i < n) {
      work.weight_sums[i + 1] = weight_here;
      work.moment_sums[i + 1] = moment_here;
    }
  }
  __syncthreads();
  return {n, ordered, weights, work.weight_sums, work.moment_sums};
}

// Borders of 2^seed clusters.
__device__ void find_clusters(const SortedPlaces& row, int k, int width, Workspace work, int* borders) {
  const int64_t sums = Workspace::sums(width);
  for (int i = static_cast<int>(threadIdx.x); i <= row.n; i += kThreads) {
    work.best[i] = i == 0 ? 0.0 : row.gain(0, i);
    work.begins[i] = 0;
    for (int c = 1; c < k; ++c) work.begins[c * sums + i] = 0;
  }
  __syncthreads();
  for (int c = 1; c < k; ++c) {
    const PartitionState state{work.best, work.next, work.begins + (c - 1) * sums, work.begins + c * sums};
    if (c < k - 1) {
      solve_cluster(row, state, c);
    } else if (threadIdx.x < 32) {  // all that is asked of the last cluster
      double most;
      int found;
      search_begin(row, state.best, row.n, max(c, state.before[row.n]), row.n - 1,
                   static_cast<int>(threadIdx.x), 32, most, found);
      best_of_warp(most, found);
      if (threadIdx.x == 0) state.begins[row.n] = found;
    }
    __syncthreads();
    double* swapped = work.best;
    work.best = work.next;
    work.next = swapped;
  }
  if (threadIdx.x == 0) {
    borders[0] = 0;
    borders[k] = row.n;
    for (int c = k - 1; c > 0; --c) borders[c] = work.begins[c * sums + borders[c + 1]];
  }
  __syncwarp();
  if (threadIdx.x < 32)
    for (int c = 1; c < k; ++c) {
      const int settled = halfway_by_warp(row, borders[c - 1], borders[c], borders[c + 1]);
      __syncwarp();
      if (threadIdx.x == 0) borders[c] = settled;
      __syncwarp();
    }
  __syncthreads();
}

// Centroids of a level. An empty cluster takes its left neighbour's.
__device__ void write_centroids(const SortedPlaces& row, const int* borders, int clusters, uint16_t* to,
                                Shared& shared) {
  const int thread = static_cast<int>(threadIdx.x);
  for (int c = thread / 32; c < clusters; c += kWarps) {
    if (borders[c] == borders[c + 1]) continue;
    const double centroid = centroid_by_warp(row, borders[c], borders[c + 1]);
    if (thread % 32 == 0) shared.centroids[c] = to_half(static_cast<float>(centroid));
  }
  __syncthreads();
  for (int c = thread; c < clusters; c += kThreads) {
    int from = c;
    while (from >= 0 && borders[from] == borders[from + 1]) --from;
    to[c] = from < 0 ? uint16_t{0} : shared.centroids[from];
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads, 4) cluster_kernel(const ClusterRows rows, char* workspace) {
  __shared__ Shared shared;
  const Workspace work(workspace, rows.width, rows.seed);
  for (int64_t r = blockIdx.x; r < rows.count; r += gridDim.x) {
    const SortedPlaces row = sorted(rows, r, work, shared);
    int* borders = shared.borders[0];
    int* finer = shared.borders[1];
    find_clusters(row, 1 << rows.seed, rows.width, work, borders);
    for (int level = rows.seed;; ++level) {
      const int clusters = 1 << level;
      write_centroids(row, borders, clusters, rows.tables + cluster_table(rows, level) + (r << level),
                      shared);
      if (level == rows.parent) break;
      for (int c = static_cast<int>(threadIdx.x) / 32; c < clusters; c += kWarps) {
        const int cut = split_by_warp(row, borders[c], borders[c + 1]);
        if (threadIdx.x % 32 != 0) continue;
        finer[2 * c] = borders[c];
        finer[2 * c + 1] = cut;
        if (c == clusters - 1) finer[2 * clusters] = borders[clusters];
      }
      __syncthreads();
      int* swapped = borders;
      borders = finer;
      finer = swapped;
    }
    const int clusters = 1 << rows.parent;
    for (int c = static_cast<int>(threadIdx.x) / 32; c < clusters; c += kWarps)
      for (int i = borders[c] + static_cast<int>(threadIdx.x) % 32; i < borders[c + 1]; i += 32)
        rows.codes[r * rows.width + work.pairs.places[i]] = static_cast<uint8_t>(c);
    __syncthreads();
  }
}

int64_t blocks_of(const ClusterRows& rows) {
  const int64_t fit = kMostWorkspace / Workspace::bytes(rows.width, rows.seed);
  const int64_t most = fit < 1 ? 1 : fit < kBlocks ? fit : kBlocks;
  return rows.count < most ? rows.count : most;
}

}  // namespace

int64_t cluster_workspace(const ClusterRows& rows) {
  return blocks_of(rows) * Workspace::bytes(rows.width, rows.seed);
}

void cluster(const ClusterRows& rows, void* workspace, Stream stream) {
  if (rows.count == 0) return;
  cluster_kernel<<<static_cast<unsigned>(blocks_of(rows)), kThreads, 0, stream>>>(
      rows, static_cast<char*>(workspace));
  check_launch("cluster", stream);
}

}  // namespace grinqh::cuda
