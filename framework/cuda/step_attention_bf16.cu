// On tensor cores, for heads of 64 or 128 dimensions: a warp takes 16 keys at a time. Scores are heads x
// keys, which is how the product with the values wants them; the order of dimensions within a product is
// chosen so that lanes load keys and values in vectors of 16 bytes. Queries and the softmax's weights are
// split into two bf16 numbers, high in rows 0 - 7 and low in rows 8 - 15 of the products.
#include "cuda/launch.cuh"
#include "cuda/step_attention.cuh"
#include "cuda/tensor_cores.cuh"

namespace grinqh::cuda {

namespace {

using Element = __nv_bfloat16;
constexpr int kWarps = 8, kThreads = kWarps * 32;
constexpr int kKeys = 16, kBlockKeys = kWarps * kKeys;  // of a warp at a time
constexpr int kHeads = 8;                               // at most, that share keys in a block
constexpr int kRowPadding = 32;                         // elements: rows of queries begin 16 banks apart

__device__ inline uint32_t packed(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// What bf16 leaves of a number.
__device__ inline float remainder_of(float x) { return x - __bfloat162float(__float2bfloat16(x)); }

__device__ inline uint32_t word_of(const uint4& four, int i) {
  return i == 0 ? four.x : i == 1 ? four.y : i == 2 ? four.z : four.w;
}

// A lane 4 g + t has of 16 keys what the products want of it: of keys g and g + 8 the dimensions of vectors
// t, t + 4, ...; of values 2 t, 2 t + 1, 2 t + 8, 2 t + 9 the dimensions kDim / 8 g and on.
template <int kDim>
struct Loaded {
  static constexpr int kKeyVectors = kDim / 32, kValueVectors = kDim / 64;
  uint4 keys[2][kKeyVectors], values[4][kValueVectors];

  static __device__ int key_of(int i) { return static_cast<int>(threadIdx.x) % 32 / 4 + 8 * i; }
  static __device__ int value_of(int i) { return threadIdx.x % 4 * 2 + i % 2 + i / 2 * 8; }

  // Those below `end`; zeros from there on.
  __device__ void load_keys(const Element* rows, int stride, int first, int end) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < kKeyVectors; ++j) {
        const int key = first + key_of(i);
        keys[i][j] = make_uint4(0, 0, 0, 0);
        if (key < end)
          keys[i][j] = reinterpret_cast<const uint4*>(rows + key * stride)[j * 4 + threadIdx.x % 4];
      }
  }
  __device__ void load_values(const Element* rows, int stride, int first, int end) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < kValueVectors; ++j) {
        const int key = first + value_of(i);
        values[i][j] = make_uint4(0, 0, 0, 0);
        if (key < end)
          values[i][j] =
              reinterpret_cast<const uint4*>(rows + key * stride)[threadIdx.x % 32 / 4 * kValueVectors + j];
      }
  }
  // The step's own, which no memory has yet.
  __device__ void insert(const Element* key, const Element* value, int place) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
      if (key_of(i) == place)
#pragma unroll
        for (int j = 0; j < kKeyVectors; ++j)
          keys[i][j] = reinterpret_cast<const uint4*>(key)[j * 4 + threadIdx.x % 4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (value_of(i) == place)
#pragma unroll
        for (int j = 0; j < kValueVectors; ++j)
          values[i][j] = reinterpret_cast<const uint4*>(value)[threadIdx.x % 32 / 4 * kValueVectors + j];
  }
};

// Blocks: (part, group of heads, sequence); the parts of a group and sequence are a cluster.
template <int kDim>
__global__ void __launch_bounds__(kThreads, 1)
    step_attention_bf16_kernel(const __grid_constant__ StepAttention p) {
  constexpr int kTiles = kDim / 8, kRow = kDim + kRowPadding;
  __shared__ __align__(16) Element queries[16][kRow];
  __shared__ __align__(16) Element newest_key[kDim], newest_value[kDim];
  __shared__ __align__(16) float results[kWarps][4][kDim + 4];  // of four heads at a time
  __shared__ float tops[kWarps][kHeads], sums[kWarps][kHeads];
  __shared__ float gathered[kDim * kHeads + kMostParts];  // [parts, slice]: a block's share of the outputs
  __shared__ float part_tops[kMostParts][kHeads], part_sums[kMostParts][kHeads];

  let_next_begin();
  arrive_at_cluster();
  const AttentionShape& shape = p.shape;
  const int sharing = static_cast<int>(shape.heads) / static_cast<int>(shape.kv_heads),
            head_groups = (sharing + kHeads - 1) / kHeads;
  const int kv_head = blockIdx.y / head_groups, within = blockIdx.y % head_groups * kHeads;
  const int first_head = kv_head * sharing + within, heads = min(kHeads, sharing - within);
  const int sequence = blockIdx.z, parts = gridDim.x, part = blockIdx.x;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;

  const int position = p.positions[sequence];
  const int each = (position + parts) / parts;  // of position + 1 keys
  const int begin = part * each, end = min(begin + each, position + 1);
  const int64_t column = sequence * p.sequence_stride + kv_head * kDim;
  Element* const keys = static_cast<Element*>(p.keys) + column;
  Element* const values = static_cast<Element*>(p.values) + column;
  const int stride = static_cast<int>(p.row_stride);
  const int past = min(end, position);  // keys that memory has
  Loaded<kDim> loaded;
  int first = begin + warp * kKeys;
  Rotation<kDim / 64> rotation;
  rotation.prepare(p.frequencies, kDim / 2, position);
  for (int i = threadIdx.x; i < 16 * kRow / 8; i += kThreads)
    reinterpret_cast<uint4*>(queries)[i] = make_uint4(0, 0, 0, 0);
  loaded.load_keys(keys, stride, first, past);
  loaded.load_values(values, stride, first, past);
  __syncthreads();
  wait_for_inputs();

  const int64_t key_column = (shape.heads + kv_head) * kDim;
  const float factor = kLog2e * rsqrtf(static_cast<float>(kDim));  // exponents to base 2
  for (int vector = warp; vector <= heads; vector += kWarps) {
    if (vector < heads)
      rotation.turn(p.qkv, sequence, int64_t{first_head + vector} * kDim, kDim / 2, p.q_norm, p.epsilon,
                    [&](int d, float x) {
                      queries[vector][d] = __float2bfloat16(x * factor);
                      queries[vector + 8][d] = __float2bfloat16(remainder_of(x * factor));
                    });
    else
      rotation.turn(p.qkv, sequence, key_column, kDim / 2, p.k_norm, p.epsilon,
                    [&](int d, float x) { newest_key[d] = __float2bfloat16(x); });
  }
  for (int d = kThreads - 1 - static_cast<int>(threadIdx.x); d < kDim;
       d += kThreads)  // warps that turn least
    newest_value[d] = __float2bfloat16(load_element(p.qkv, sequence, key_column + shape.kv_heads * kDim + d));
  __syncthreads();
  if (part == parts - 1 && within == 0)
    for (int d = threadIdx.x; d < kDim; d += kThreads) {
      keys[position * p.row_stride + d] = newest_key[d];
      values[position * p.row_stride + d] = newest_value[d];
    }

  float mix[kTiles][4] = {};
  float top = kLowest, sum = 0;  // of head g; the sum of this lane's weights
  for (; first < end; first += kBlockKeys) {
    if (position < end) loaded.insert(newest_key, newest_value, position - first);
    float scores[2][4] = {};  // heads g, high and low, x keys 2 t and 2 t + 1 of each eight
#pragma unroll
    for (int j = 0; j < Loaded<kDim>::kKeyVectors; ++j) {
      const uint4 high = *reinterpret_cast<const uint4*>(&queries[g][(j * 4 + t) * 8]);
      const uint4 low = *reinterpret_cast<const uint4*>(&queries[g + 8][(j * 4 + t) * 8]);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t a[4] = {word_of(high, 2 * half), word_of(low, 2 * half), word_of(high, 2 * half + 1),
                               word_of(low, 2 * half + 1)};
#pragma unroll
        for (int i = 0; i < 2; ++i)
          multiply(scores[i], a, word_of(loaded.keys[i][j], 2 * half),
                   word_of(loaded.keys[i][j], 2 * half + 1));
      }
    }
    const int next = first + kBlockKeys;
    if (next < end) loaded.load_keys(keys, stride, next, past);
    float weight[4], highest = top;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool inside = first + i / 2 * 8 + 2 * t + i % 2 < end;
      weight[i] = inside ? scores[i / 2][i % 2] + scores[i / 2][i % 2 + 2] : -INFINITY;
      highest = fmaxf(highest, weight[i]);
    }
    highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
    highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
    const float shrink = exp2_fast(top - highest);
    top = highest;
    sum *= shrink;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      weight[i] = exp2_fast(weight[i] - top);
      sum += weight[i];
    }
    const uint32_t a[4] = {
        packed(weight[0], weight[1]), packed(remainder_of(weight[0]), remainder_of(weight[1])),
        packed(weight[2], weight[3]), packed(remainder_of(weight[2]), remainder_of(weight[3]))};
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) mix[j][i] *= shrink;
      const int at = j / 2 % 4;
      const uint32_t select = j % 2 == 0 ? 0x5410 : 0x7632;
      multiply(
          mix[j], a,
          __byte_perm(word_of(loaded.values[0][j / 8], at), word_of(loaded.values[1][j / 8], at), select),
          __byte_perm(word_of(loaded.values[2][j / 8], at), word_of(loaded.values[3][j / 8], at), select));
    }
    if (next < end) loaded.load_values(values, stride, next, past);
  }

  // The warps of the block, the blocks of the cluster: always in the same order. A head's outputs go as the
  // products left them: four of neighbouring tiles, for each of their eight columns.
  sum += __shfl_xor_sync(0xffffffffu, sum, 1);
  sum += __shfl_xor_sync(0xffffffffu, sum, 2);
  if (t == 0) {
    tops[warp][g] = top;
    sums[warp][g] = sum;
  }
  const int outputs = heads * kDim, slice = (outputs + parts - 1) / parts;
  for (int four = 0; four < heads; four += 4) {
    if (four > 0) __syncthreads();
    if (g / 4 == four / 4) {
#pragma unroll
      for (int j = 0; j < kTiles; j += 4)
#pragma unroll
        for (int i = 0; i < 2; ++i)
          *reinterpret_cast<float4*>(&results[warp][g % 4][(j / 4 * 8 + 2 * t + i) * 4]) =
              make_float4(mix[j][i] + mix[j][i + 2], mix[j + 1][i] + mix[j + 1][i + 2],
                          mix[j + 2][i] + mix[j + 2][i + 2], mix[j + 3][i] + mix[j + 3][i + 2]);
    }
    __syncthreads();
    if (four == 0) wait_for_arrivals();  // all its blocks have begun
    for (int i = threadIdx.x; i < min(4, heads - four) * kDim; i += kThreads) {
      const int h = four + i / kDim;
      float highest = kLowest, total = 0, y = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) highest = fmaxf(highest, tops[w][h]);
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const float share = exp2_fast(tops[w][h] - highest);
        total = fmaf(share, sums[w][h], total);
        y = fmaf(share, results[w][h - four][i % kDim], y);
      }
      const int output = four * kDim + i, rank = output / slice;
      put_in_block(&gathered[part * slice + output - rank * slice], rank, y);
      // Eight neighbours tell the blocks about the head, as many times as it takes.
      if (i % kDim < parts) {
        put_in_block(&part_tops[part][h], i % kDim, highest);
        put_in_block(&part_sums[part][h], i % kDim, total);
      }
    }
  }
  wait_for_cluster();
  for (int i = part * slice + static_cast<int>(threadIdx.x); i < min(outputs, (part + 1) * slice);
       i += kThreads) {
    const int h = i / kDim, place = i % kDim;
    float highest = kLowest, total = 0, y = 0;
    for (int other = 0; other < parts; ++other) highest = fmaxf(highest, part_tops[other][h]);
    for (int other = 0; other < parts; ++other) {
      const float share = exp2_fast(part_tops[other][h] - highest);
      total = fmaf(share, part_sums[other][h], total);
      y = fmaf(share, gathered[other * slice + i - part * slice], y);
    }
    const int dim = place / 4 % 8 * kTiles + place / 32 * 4 + place % 4;
    put_mix(p.out, sequence * p.out.stride + int64_t{first_head + h} * kDim + dim, y / total);
  }
}

template <int kDim>
void launch(const StepAttention& task, int parts, Stream stream) {
  const int64_t sharing = task.shape.heads / task.shape.kv_heads;
  const dim3 grid(static_cast<unsigned>(parts),
                  static_cast<unsigned>(task.shape.kv_heads * ((sharing + kHeads - 1) / kHeads)),
                  static_cast<unsigned>(task.qkv.rows));
  const auto kernel = step_attention_bf16_kernel<kDim>;
  // As the products around it: changing the carveout would cost more than the launch.
  check_call(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared),
             "cudaFuncSetAttribute");
  launch_early("step attention", kernel, {grid, dim3(kThreads), 0, parts}, stream, task);
}

}  // namespace

bool step_attention_bf16(const StepAttention& task, int parts, Stream stream) {
  if (task.shape.head_dim == 64)
    launch<64>(task, parts, stream);
  else if (task.shape.head_dim == 128)
    launch<128>(task, parts, stream);
  else
    return false;
  return true;
}

}  // namespace grinqh::cuda
