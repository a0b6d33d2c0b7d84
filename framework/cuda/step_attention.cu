// kLanes lanes hold a key, eight dimensions each, and serve kHeads query heads that share it. The blocks of a
// cluster share the keys. The first keys and values of every lane are on their way before the products that
// make the query have ended: they are older than this step.
#include "cuda/step_attention.cuh"

#include "cuda/launch.cuh"
#include "cuda/scatter_sums.cuh"

namespace grinqh::cuda {

namespace {

constexpr int threads_of(int lanes) { return lanes == 32 ? 256 : 512; }  // results fit in 48 KiB
constexpr int kUnroll = 4;  // keys of a lane group whose loads are in flight together
constexpr int64_t kKeysWorthABlock = 64;

// Blocks: (part, group of heads, sequence); the parts of a head and sequence are a cluster.
template <class T, int kLanes, int kHeads>
__global__ void __launch_bounds__(threads_of(kLanes), 1)
    step_attention_kernel(const __grid_constant__ StepAttention p) {
  constexpr int kThreads = threads_of(kLanes), kWarps = kThreads / 32;
  constexpr int kDims = kLanes * 8, kGroups = kThreads / kLanes, kScores = kHeads * kUnroll;
  constexpr int kHeld = kScores > kLanes ? kScores / kLanes : 1;    // scores of a lane
  constexpr int kCopies = kLanes > kScores ? kLanes / kScores : 1;  // lanes with the same score
  constexpr int kHeadLanes = kLanes / kHeads;
  __shared__ float turned[kHeads + 1][kDims];  // queries, then the step's key
  __shared__ float newest[kDims];              // the step's value, rounded
  __shared__ float results[kWarps][kHeads][kDims];
  __shared__ float tops[kWarps][kHeads], sums[kWarps][kHeads];
  __shared__ float mixed[kHeads * kDims], mixed_tops[kHeads], mixed_sums[kHeads];

  let_next_begin();
  const AttentionShape& shape = p.shape;
  const int head_dim = static_cast<int>(shape.head_dim), half = head_dim / 2;
  const int sharing = static_cast<int>(shape.heads) / static_cast<int>(shape.kv_heads),
            head_groups = (sharing + kHeads - 1) / kHeads;
  const int kv_head = blockIdx.y / head_groups, within = blockIdx.y % head_groups * kHeads;
  const int first_head = kv_head * sharing + within, heads = min(kHeads, sharing - within);
  const int sequence = blockIdx.z, parts = gridDim.x, part = blockIdx.x;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes;
  const int dim = lane * 8, dims = head_dim - dim;  // dims <= 0: nothing to do for this lane

  const int position = p.positions[sequence];
  const int each = (position + parts) / parts;  // of position + 1 keys
  const int begin = part * each, end = min(begin + each, position + 1);
  const int64_t column = sequence * p.sequence_stride + kv_head * head_dim;
  T* const keys = static_cast<T*>(p.keys) + column;
  T* const values = static_cast<T*>(p.values) + column;
  Packed8<T> key[kUnroll] = {}, value[kUnroll] = {};
  const auto load = [&](int base) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int k = base + u * kGroups + group;
      if (k >= min(end, position) || dims <= 0) continue;
      key[u] = load8(keys + k * p.row_stride + dim);
      value[u] = load8(values + k * p.row_stride + dim);
    }
  };
  load(begin);
  Rotation<kLanes / 8> rotation;
  rotation.prepare(p.frequencies, half, position);
  wait_for_inputs();

  const int64_t key_column = (shape.heads + kv_head) * head_dim;
  const float factor = rsqrtf(static_cast<float>(head_dim));
  for (int vector = warp; vector <= kHeads; vector += kWarps) {
    if (vector < heads)
      rotation.turn(p.qkv, sequence, int64_t{first_head + vector} * head_dim, half, p.q_norm, p.epsilon,
                    [&](int d, float x) { turned[vector][d] = x * factor; });
    else if (vector == kHeads)
      rotation.turn(p.qkv, sequence, key_column, half, p.k_norm, p.epsilon,
                    [&](int d, float x) { turned[kHeads][d] = x; });
  }
  const int from_end = kThreads - 1 - static_cast<int>(threadIdx.x);  // warps that turn nothing
  if (from_end < head_dim)
    newest[from_end] =
        rounded<T>(load_element(p.qkv, sequence, key_column + shape.kv_heads * head_dim + from_end));
  __syncthreads();
  if (threadIdx.x < head_dim) {
    const float turned_key = turned[kHeads][threadIdx.x];
    if (part == parts - 1 && within == 0) {
      store(turned_key, keys + position * p.row_stride + threadIdx.x);
      store(newest[threadIdx.x], values + position * p.row_stride + threadIdx.x);
    }
  }

  float query[kHeads][8], result[kHeads][8] = {};
  float greatest = kLowest, sum = 0;  // of head lane / kHeadLanes; the sum of this lane's scores
#pragma unroll
  for (int h = 0; h < kHeads; ++h)
#pragma unroll
    for (int i = 0; i < 8; ++i) query[h][i] = h < heads && i < dims ? turned[h][dim + i] : 0.0f;
  // Whole warps stay together for the shuffles.
  for (int base = begin; base < end; base += kGroups * kUnroll) {
    if (base > begin) load(base);
    float score[kScores];  // of head h and key u at h kUnroll + u, until they are scattered
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      float x[8];
      key[u].unpack(x);
      if (base + u * kGroups + group == position && dims > 0) {
#pragma unroll
        for (int i = 0; i < 8; ++i) x[i] = rounded<T>(turned[kHeads][dim + i]);
      }
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        float product = 0;
#pragma unroll
        for (int i = 0; i < 8; ++i) product = fmaf(query[h][i], x[i], product);
        score[h * kUnroll + u] = product;
      }
    }
    scatter_sums<kLanes>(score, lane);
    float top = greatest;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int u = (lane * kHeld / kCopies + i) % kUnroll;
      if (base + u * kGroups + group >= end) score[i] = -INFINITY;
      top = fmaxf(top, score[i]);
    }
#pragma unroll
    for (int step = kHeadLanes / 2; step > 0; step /= 2)
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
    const float shrink = __expf(greatest - top);
    greatest = top;
    sum *= shrink;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      score[i] = __expf(score[i] - top);
      sum += score[i];
    }
    if (base > begin) {
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        const float factor = __shfl_sync(0xffffffffu, shrink, h * kHeadLanes, kLanes);
#pragma unroll
        for (int i = 0; i < 8; ++i) result[h][i] *= factor;
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      float x[8];
      value[u].unpack(x);
      if (base + u * kGroups + group == position && dims > 0) {
#pragma unroll
        for (int i = 0; i < 8; ++i) x[i] = newest[dim + i];
      }
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        const int at = h * kUnroll + u;
        const float share = __shfl_sync(0xffffffffu, score[at % kHeld], at * kCopies / kHeld, kLanes);
#pragma unroll
        for (int i = 0; i < 8; ++i) result[h][i] = fmaf(share, x[i], result[h][i]);
      }
    }
  }

  // The groups of a warp, the warps of the block, the blocks of the cluster: always in the same order.
#pragma unroll
  for (int step = kHeadLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  sum /= kCopies;
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    float own = __shfl_sync(0xffffffffu, greatest, h * kHeadLanes, kLanes);
    float total = __shfl_sync(0xffffffffu, sum, h * kHeadLanes, kLanes);
#pragma unroll
    for (int step = kLanes; step < 32; step *= 2) {
      const float top = fmaxf(own, __shfl_xor_sync(0xffffffffu, own, step));
      const float shrink = __expf(own - top);
      own = top;
      total *= shrink;
      total += __shfl_xor_sync(0xffffffffu, total, step);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        result[h][i] *= shrink;
        result[h][i] += __shfl_xor_sync(0xffffffffu, result[h][i], step);
      }
    }
    if (threadIdx.x % 32 >= kLanes) continue;
    if (lane == 0) {
      tops[warp][h] = own;
      sums[warp][h] = total;
    }
    float4* to = reinterpret_cast<float4*>(&results[warp][h][dim]);
    to[0] = make_float4(result[h][0], result[h][1], result[h][2], result[h][3]);
    to[1] = make_float4(result[h][4], result[h][5], result[h][6], result[h][7]);
  }
  __syncthreads();
  const int outputs = heads * head_dim;
  for (int i = static_cast<int>(threadIdx.x); i < outputs; i += kThreads) {
    const int h = i / head_dim, d = i - h * head_dim;
    float top = kLowest, total = 0, mix = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) top = fmaxf(top, tops[w][h]);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float share = __expf(tops[w][h] - top);
      total = fmaf(share, sums[w][h], total);
      mix = fmaf(share, results[w][h][d], mix);
    }
    mixed[i] = mix;
    if (d == 0) {
      mixed_tops[h] = top;
      mixed_sums[h] = total;
    }
  }
  wait_for_cluster();
  const int slice = (outputs + parts - 1) / parts;
  for (int i = part * slice + static_cast<int>(threadIdx.x); i < min(outputs, (part + 1) * slice);
       i += kThreads) {
    const int h = i / head_dim;
    float top[kMostParts], total[kMostParts], mix[kMostParts];
#pragma unroll
    for (int other = 0; other < kMostParts; ++other) {
      top[other] = other < parts ? of_block(&mixed_tops[h], other) : kLowest;
      total[other] = other < parts ? of_block(&mixed_sums[h], other) : 0.0f;
      mix[other] = other < parts ? of_block(&mixed[i], other) : 0.0f;
    }
    float highest = kLowest, all = 0, y = 0;
#pragma unroll
    for (int other = 0; other < kMostParts; ++other) highest = fmaxf(highest, top[other]);
#pragma unroll
    for (int other = 0; other < kMostParts; ++other) {
      const float share = __expf(top[other] - highest);
      all = fmaf(share, total[other], all);
      y = fmaf(share, mix[other], y);
    }
    put_mix(p.out, sequence * p.out.stride + int64_t{first_head} * head_dim + i, y / all);
  }
  wait_for_cluster();  // nobody's shared memory goes while another reads it
}

template <class T, int kLanes, int kHeads>
void launch(const StepAttention& task, int parts, Stream stream) {
  const int64_t sharing = task.shape.heads / task.shape.kv_heads;
  const dim3 grid(static_cast<unsigned>(parts),
                  static_cast<unsigned>(task.shape.kv_heads * ((sharing + kHeads - 1) / kHeads)),
                  static_cast<unsigned>(task.qkv.rows));
  const auto kernel = step_attention_kernel<T, kLanes, kHeads>;
  // As the products around it: changing the carveout would cost more than the launch.
  check_call(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared),
             "cudaFuncSetAttribute");
  launch_early("step attention", kernel, {grid, dim3(threads_of(kLanes)), 0, parts}, stream, task);
}

template <class T, int kLanes>
void launch_for_heads(const StepAttention& task, int parts, Stream stream) {
  if (task.shape.heads == task.shape.kv_heads)
    launch<T, kLanes, 1>(task, parts, stream);
  else
    launch<T, kLanes, 4>(task, parts, stream);
}

template <class T>
void launch_for_lanes(const StepAttention& task, int parts, Stream stream) {
  if (task.shape.head_dim <= 64)
    launch_for_heads<T, 8>(task, parts, stream);
  else if (task.shape.head_dim <= 128)
    launch_for_heads<T, 16>(task, parts, stream);
  else
    launch_for_heads<T, 32>(task, parts, stream);
}

}  // namespace

int attention_parts(const AttentionShape& shape, int64_t sequences, int64_t capacity, int multiprocessors) {
  const int64_t sharing = shape.heads / shape.kv_heads, heads = sharing == 1 ? 1 : 4;
  const int64_t others = sequences * shape.kv_heads * ((sharing + heads - 1) / heads);
  int parts = 1;
  while (parts < kMostParts && 2 * parts * others <= multiprocessors &&
         2 * parts * kKeysWorthABlock <= capacity)
    parts *= 2;
  return parts;
}

void step_attention(const StepAttention& task, int parts, Stream stream) {
  if (task.qkv.rows <= 0) return;
  if (task.cache_type == Type::f32)
    launch_for_lanes<float>(task, parts, stream);
  else if (!step_attention_bf16(task, parts, stream))
    launch_for_lanes<__nv_bfloat16>(task, parts, stream);
}

}  // namespace grinqh::cuda
