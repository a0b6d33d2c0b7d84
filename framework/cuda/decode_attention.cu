#include "cuda/attention.h"
#include "cuda/device_properties.h"
#include "cuda/elements.cuh"
#include "cuda/scatter_sums.cuh"

namespace grinqh::cuda {

namespace {

constexpr int kWarps = 4, kThreads = kWarps * 32;
constexpr int kUnroll = 4;  // keys of a lane group whose loads are in flight together
constexpr int kBlocksAMultiprocessor = 4;
constexpr int64_t kKeysWorthABlock = 64;
constexpr float kLowest = -1.0e30f;  // a running maximum before the first key

// Of the keys that a block, or a group of lanes, has seen: results are relative to the greatest score.
struct SoftmaxState {
  float greatest, sum;
};

// Scratch of one part of the keys of one head: outputs [head_dim], then the state.
__device__ float* part_of(float* scratch, const AttentionShape& shape, int64_t sequences, int64_t part,
                          int64_t sequence, int64_t head) {
  return scratch + ((part * sequences + sequence) * shape.heads + head) * (shape.head_dim + 2);
}

// Splits that fill the device, each with keys enough to be worth a block.
struct Split {
  int64_t parts, keys;  // keys of a part
};
Split split_of(const AttentionShape& shape, int64_t sequences, int64_t longest_past) {
  // Not more blocks than run at once: the last few would run alone.
  const int64_t wanted = int64_t{kBlocksAMultiprocessor} * device_properties().multiprocessors /
                         std::max<int64_t>(1, sequences * shape.kv_heads);
  const int64_t parts =
      std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, ceil_div(longest_past, kKeysWorthABlock)));
  const int64_t keys = ceil_div(ceil_div(longest_past, parts), 16) * 16;
  return {ceil_div(longest_past, keys), keys};
}

// kLanes lanes hold a key, eight dimensions each, and serve the kHeads query heads that share it. The softmax
// of a head is on kLanes / kHeads lanes. Blocks: (part, group of heads, sequence).
template <Type kType, int kLanes, int kHeads>
__global__ void __launch_bounds__(kThreads, kBlocksAMultiprocessor)
    decode_attention_kernel(AttentionShape shape, ConstView q, const SequenceSpan* sequences,
                            int64_t kv_stride, int64_t part_keys, float* scratch, bool aligned) {
  constexpr int kGroups = kThreads / kLanes, kScores = kHeads * kUnroll;
  constexpr int kHeld = kScores > kLanes ? kScores / kLanes : 1;    // scores of a lane
  constexpr int kCopies = kLanes > kScores ? kLanes / kScores : 1;  // lanes with the same score
  constexpr int kHeadLanes = kLanes / kHeads;
  __shared__ float results[kGroups][kHeads][kLanes * kChunk];
  __shared__ SoftmaxState states[kGroups][kHeads];

  const SequenceSpan sequence = sequences[blockIdx.z];
  const int64_t sharing = shape.heads / shape.kv_heads, head_groups = (sharing + kHeads - 1) / kHeads;
  const int64_t kv_head = blockIdx.y / head_groups, within = blockIdx.y % head_groups * kHeads;
  const int64_t first_head = kv_head * sharing + within;
  const int heads = static_cast<int>(min(int64_t{kHeads}, sharing - within));
  const int lane = static_cast<int>(threadIdx.x) % kLanes, group = static_cast<int>(threadIdx.x) / kLanes;
  const int64_t dim = lane * kChunk, dims = shape.head_dim - dim;  // dims <= 0: nothing to do for this lane

  float query[kHeads][kChunk], result[kHeads][kChunk] = {};
  SoftmaxState state{kLowest, 0.0f};  // of head lane / kHeadLanes; the sum of this lane's scores
  const float scale = 1.0f / sqrtf(static_cast<float>(shape.head_dim));
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    Chunk chunk{};
    if (h < heads && dims > 0)
      chunk = load_chunk(row_of(q, sequence.first_row), kType, (first_head + h) * shape.head_dim + dim, dims,
                         aligned);
    to_floats(chunk, kType, query[h]);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) query[h][i] *= scale;
  }

  const int64_t row_bytes = kv_stride * size_of(kType);
  const int64_t column = kv_head * shape.head_dim + dim;
  const auto* keys = static_cast<const char*>(sequence.keys);
  const auto* values = static_cast<const char*>(sequence.values);
  const int64_t end = min((int64_t{blockIdx.x} + 1) * part_keys, sequence.past + 1);
  // Whole warps stay together for the shuffles.
  for (int64_t base = int64_t{blockIdx.x} * part_keys; base < end; base += kGroups * kUnroll) {
    Chunk key[kUnroll], value[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t k = base + u * kGroups + group;
      const bool inside = k < end && dims > 0;
      key[u] = inside ? load_chunk(keys + k * row_bytes, kType, column, dims, aligned) : Chunk{};
      value[u] = inside ? load_chunk(values + k * row_bytes, kType, column, dims, aligned) : Chunk{};
    }
    float score[kScores];  // of head h and key u at h kUnroll + u, until they are scattered
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      float x[kChunk];
      to_floats(key[u], kType, x);
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < kChunk; ++i) sum = fmaf(query[h][i], x[i], sum);
        score[h * kUnroll + u] = sum;
      }
    }
    scatter_sums<kLanes>(score, lane);
    float top = state.greatest;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int u = (lane * kHeld / kCopies + i) % kUnroll;
      if (base + u * kGroups + group >= end) score[i] = -INFINITY;
      top = fmaxf(top, score[i]);
    }
#pragma unroll
    for (int step = kHeadLanes / 2; step > 0; step /= 2)
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
    const float shrink = expf(state.greatest - top);
    state.greatest = top;
    state.sum *= shrink;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      score[i] = expf(score[i] - top);
      state.sum += score[i];
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const float factor = __shfl_sync(0xffffffffu, shrink, h * kHeadLanes, kLanes);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) result[h][i] *= factor;
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      float x[kChunk];
      to_floats(value[u], kType, x);
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        const int at = h * kUnroll + u;
        const float share = __shfl_sync(0xffffffffu, score[at % kHeld], at * kCopies / kHeld, kLanes);
#pragma unroll
        for (int i = 0; i < kChunk; ++i) result[h][i] = fmaf(share, x[i], result[h][i]);
      }
    }
  }

  state.sum = lane_sum(state.sum, kHeadLanes) / kCopies;
  if (lane % kHeadLanes == 0) states[group][lane / kHeadLanes] = state;
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) results[group][h][dim + i] = result[h][i];
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < heads * static_cast<int>(shape.head_dim); i += kThreads) {
    const int h = i / static_cast<int>(shape.head_dim), d = i % static_cast<int>(shape.head_dim);
    float top = kLowest, sum = 0, value = 0;
    for (int g = 0; g < kGroups; ++g) top = fmaxf(top, states[g][h].greatest);
    for (int g = 0; g < kGroups; ++g) {
      const float share = expf(states[g][h].greatest - top);
      sum += share * states[g][h].sum;
      value += share * results[g][h][d];
    }
    float* part = part_of(scratch, shape, gridDim.z, blockIdx.x, blockIdx.z, first_head + h);
    part[d] = value;
    if (d == 0) part[shape.head_dim] = top, part[shape.head_dim + 1] = sum;
  }
}

// A block joins the parts of one head of one sequence. Dynamic shared memory: [parts], to a multiple of eight
// (compilers read them in fours).
__global__ void join_parts_kernel(AttentionShape shape, const SequenceSpan* sequences, int64_t parts,
                                  float* scratch, View out) {
  extern __shared__ float shares[];
  const int64_t head = blockIdx.x, dim = shape.head_dim;
  const float* first = part_of(scratch, shape, gridDim.y, 0, blockIdx.y, head);
  const int64_t stride = part_of(scratch, shape, gridDim.y, 1, blockIdx.y, head) - first;
  float top = kLowest, sum = 0;
  for (int64_t p = threadIdx.x % 32; p < parts; p += 32) top = fmaxf(top, first[p * stride + dim]);
  for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
  for (int64_t p = threadIdx.x; p < parts; p += blockDim.x) {
    shares[p] = expf(first[p * stride + dim] - top);
    sum += shares[p] * first[p * stride + dim + 1];
  }
  sum = block_sum(sum);
  char* row = row_of(out, sequences[blockIdx.y].first_row);
  for (int64_t d = threadIdx.x; d < dim; d += blockDim.x) {
    float value = 0;
#pragma unroll 8
    for (int64_t p = 0; p < parts; ++p) value = fmaf(shares[p], first[p * stride + d], value);
    value /= sum;
    if (out.type == Type::f32)
      reinterpret_cast<float*>(row)[head * dim + d] = value;
    else
      reinterpret_cast<__nv_bfloat16*>(row)[head * dim + d] = __float2bfloat16_rn(value);
  }
}

struct DecodeTask {
  AttentionShape shape;
  ConstView q;
  const SequenceSpan* sequences;
  int64_t count, kv_stride;
  Split split;
  float* scratch;
};

template <Type kType, int kLanes, int kHeads>
void launch(const DecodeTask& task, Stream stream) {
  const int64_t groups = task.shape.kv_heads * ceil_div(task.shape.heads / task.shape.kv_heads, kHeads);
  const dim3 grid(static_cast<unsigned>(task.split.parts), static_cast<unsigned>(groups),
                  static_cast<unsigned>(task.count));
  const bool aligned = aligned_rows(task.q) && task.shape.head_dim * size_of(kType) % 16 == 0 &&
                       task.kv_stride * size_of(kType) % 16 == 0;
  decode_attention_kernel<kType, kLanes, kHeads><<<grid, kThreads, 0, stream>>>(
      task.shape, task.q, task.sequences, task.kv_stride, task.split.keys, task.scratch, aligned);
  check_launch("decode_attention", stream);
}

template <Type kType, int kLanes>
void launch_for_heads(const DecodeTask& task, Stream stream) {
  if (task.shape.heads == task.shape.kv_heads)
    launch<kType, kLanes, 1>(task, stream);
  else
    launch<kType, kLanes, 4>(task, stream);
}

template <Type kType>
void launch_for_lanes(const DecodeTask& task, Stream stream) {
  if (task.shape.head_dim <= 64)
    launch_for_heads<kType, 8>(task, stream);
  else if (task.shape.head_dim <= 128)
    launch_for_heads<kType, 16>(task, stream);
  else
    launch_for_heads<kType, 32>(task, stream);
}

}  // namespace

int64_t decode_attention_scratch(const AttentionShape& shape, int64_t sequences, int64_t longest_past) {
  if (sequences <= 0 || longest_past <= 0) return 0;
  return split_of(shape, sequences, longest_past).parts * sequences * shape.heads * (shape.head_dim + 2) *
         static_cast<int64_t>(sizeof(float));
}

void decode_attention(const AttentionShape& shape, ConstView q, const SequenceSpan* sequences, int64_t count,
                      int64_t longest_past, int64_t kv_stride, View out, void* scratch, Stream stream) {
  if (count <= 0 || longest_past <= 0) return;
  const DecodeTask task{shape,
                        q,
                        sequences,
                        count,
                        kv_stride,
                        split_of(shape, count, longest_past),
                        static_cast<float*>(scratch)};
  if (q.type == Type::f32)
    launch_for_lanes<Type::f32>(task, stream);
  else
    launch_for_lanes<Type::bf16>(task, stream);
  const dim3 grid(static_cast<unsigned>(shape.heads), static_cast<unsigned>(count));
  const auto shared =
      static_cast<unsigned>(ceil_div(task.split.parts, 8) * 8 * static_cast<int64_t>(sizeof(float)));
  join_parts_kernel<<<grid, 128, shared, stream>>>(shape, sequences, task.split.parts, task.scratch, out);
  check_launch("decode_attention: join", stream);
}

}  // namespace grinqh::cuda
