// On tensor cores, for heads of 64 or 128 dimensions. Keys and values pass through shared memory in rounds;
// those of the first round are on their way before the products that make the query have ended: they are
// older than this step. A warp takes the scores of 16 keys at a time, and then a share of the dimensions over
// all keys of the round, so that warps have nothing to add up. Queries and the softmax's weights are split
// into two bf16 numbers, high in rows 0 - 7 and low in rows 8 - 15 of the products.
//
// A block leaves room for a block of the product ahead of it or behind it: both come early then.
#include "cuda/bulk_copy.cuh"
#include "cuda/gemv_launch.cuh"
#include "cuda/step_attention.cuh"
#include "cuda/tensor_cores.cuh"

namespace grinqh::cuda {

namespace {

using Element = __nv_bfloat16;
constexpr int kWarps = 8, kThreads = kWarps * 32;
constexpr int kHeads = 8;    // at most, that share keys in a block
constexpr int kGroup = 16;   // keys of a product
constexpr int kGroups = 11;  // of a round
constexpr int kWarpGroups = (kGroups + kWarps - 1) / kWarps;
constexpr int kRoundKeys = kGroups * kGroup;
constexpr int kRowPadding = 8;  // elements: eight rows' vectors of 16 bytes lie in different banks

template <int kDim>
struct Shared {
  static constexpr int kRow = kDim + kRowPadding;

  Element keys[kRoundKeys][kRow], values[kRoundKeys][kRow];
  Element queries[2 * kHeads][kRow], weights[2 * kHeads][kRoundKeys + kRowPadding];
  Element newest_key[kDim], newest_value[kDim];
  float tops[kWarps][kHeads], sums[kWarps][kHeads];  // of a round: exponents to base 2, relative to the tops
  // From all parts: their mixes' dimensions that are this block's, [parts, kHeads, kDim / parts], tops and
  // sums.
  float mixes[kHeads * kDim];
  uint2 part_sums[kMostParts][kHeads];
  uint64_t arrived;  // the barrier that counts their bytes
};
static_assert(sizeof(Shared<128>) <= kHalfShared);

__device__ inline uint32_t packed(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// What bf16 leaves of a number.
__device__ inline float remainder_of(float x) { return x - __bfloat162float(__float2bfloat16(x)); }

// Blocks that share keys, each of which ends up with a share of the dimensions, all powers of two.
template <int kDim>
struct Parts {
  int log_count, part;

  __device__ int count() const { return 1 << log_count; }
  __device__ int log_width() const { return (kDim == 128 ? 7 : 6) - log_count; }
  __device__ int width() const { return 1 << log_width(); }
  // Of a part's mix of a head, in Shared::mixes.
  __device__ int place(int of_part, int head, int dim) const {
    return (of_part * kHeads + head << log_width()) + dim;
  }
};

// The keys of a block, [begin, end), of which the last may be the step's own.
struct Span {
  int begin, end, position;

  __device__ bool holds_newest() const { return begin <= position && position < end; }
  __device__ int count(int first) const { return min(kRoundKeys, end - first); }
};

// Keys or values of the round that begins with `first`, asked for; zeros to the end of the last group, as
// weights of nothing are multiplied with them too. The step's own are in no memory yet.
template <int kDim>
__device__ void copy_round(const Element* rows, int64_t stride, const Span& span, int first,
                           Element (*to)[Shared<kDim>::kRow]) {
  constexpr int kVectors = kDim / 8;
  const int vectors = (span.count(first) + kGroup - 1) / kGroup * kGroup * kVectors;
  for (int i = threadIdx.x; i < vectors; i += kThreads) {
    const int row = i / kVectors, dim = i % kVectors * 8, key = first + row;
    if (key != span.position || key >= span.end)
      copy_async(shared_address(&to[row][dim]), rows + key * stride + dim,
                 key < min(span.end, span.position));
  }
}

// A warp's operands, asked for together: what takes time is waiting for them one after the other.
template <int kDim>
struct KeyOperands {
  static constexpr int kSteps = kDim / 16;
  uint32_t of[kSteps][4];

  // Of 16 keys of the round.
  __device__ void load(const Shared<kDim>& s, int first) {
    const int lane = threadIdx.x % 32;
    const uint32_t from = shared_address(&s.keys[first + lane % 8 + lane / 16 * 8][lane / 8 % 2 * 8]);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) load_matrices(of[step], from + step * 32);
  }
};

// Scores of this warp's keys become weights; tops and sums of the round.
template <int kDim>
__device__ void weigh(Shared<kDim>& s, int count) {
  constexpr int kSteps = kDim / 16;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t query = shared_address(&s.queries[lane % 16][lane / 16 * 8]);
  uint32_t a[kSteps][4];
#pragma unroll
  for (int step = 0; step < kSteps; ++step) load_matrices(a[step], query + step * 32);
  const auto first_of = [&](int m) { return (warp + m * kWarps) * kGroup; };
  float weight[kWarpGroups][2][2], top = kLowest, sum = 0;  // keys 2 t and 2 t + 1 of each eight
#pragma unroll
  for (int m = 0; m < kWarpGroups; ++m) {
    if (first_of(m) >= count) break;
    KeyOperands<kDim> keys;
    keys.load(s, first_of(m));
    float scores[2][2][4] = {};  // of even steps and of odd ones: heads g, high and low
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        multiply(scores[step % 2][i], a[step], keys.of[step][2 * i], keys.of[step][2 * i + 1]);
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float score = (scores[0][i][e] + scores[1][i][e]) + (scores[0][i][e + 2] + scores[1][i][e + 2]);
        weight[m][i][e] = first_of(m) + i * 8 + 2 * t + e < count ? score : -INFINITY;
        top = fmaxf(top, weight[m][i][e]);
      }
  }
  top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
  top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
#pragma unroll
  for (int m = 0; m < kWarpGroups; ++m) {
    if (first_of(m) >= count) break;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float first = exp2_fast(weight[m][i][0] - top), second = exp2_fast(weight[m][i][1] - top);
      sum += first + second;
      const int key = first_of(m) + i * 8 + 2 * t;
      *reinterpret_cast<uint32_t*>(&s.weights[g][key]) = packed(first, second);
      *reinterpret_cast<uint32_t*>(&s.weights[g + kHeads][key]) =
          packed(remainder_of(first), remainder_of(second));
    }
  }
  sum += __shfl_xor_sync(0xffffffffu, sum, 1);
  sum += __shfl_xor_sync(0xffffffffu, sum, 2);
  if (t == 0) {
    s.tops[warp][g] = top;
    s.sums[warp][g] = sum;
  }
}

// What a warp has of the mix: head g, dimensions 2 t and 2 t + 1 of each tile of eight from its first on.
template <int kDim>
struct Mix {
  static constexpr int kTiles = kDim / 8 / kWarps;
  float top = kLowest, sum = 0;  // of all dimensions
  float y[kTiles][2] = {};

  __device__ void add_round(const Shared<kDim>& s, int count) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4;
    const uint32_t weight = shared_address(&s.weights[lane % 16][lane / 16 * 8]),
                   value =
                       shared_address(&s.values[lane % 16][warp * kTiles * 8 + lane / 16 * 8 % (kTiles * 8)]);
    float highest = top, share[kWarps];
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      share[w] = s.tops[w][g];
      highest = fmaxf(highest, share[w]);
    }
    const float shrink = exp2_fast(top - highest);
    top = highest;
    sum *= shrink;
#pragma unroll
    for (int j = 0; j < kTiles; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) y[j][e] *= shrink;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      share[w] = exp2_fast(share[w] - top);
      sum = fmaf(share[w], s.sums[w][g], sum);
    }
    constexpr int kTogether = 4;
#pragma unroll
    for (int first = 0; first < kGroups; first += kTogether) {
      if (first * kGroup >= count) break;
      uint32_t a[kTogether][4], b[kTogether][4];
#pragma unroll
      for (int n = 0; n < kTogether && first + n < kGroups; ++n) {
        load_matrices(a[n], weight + (first + n) * kGroup * 2);
        load_matrices_transposed(b[n], value + (first + n) * kGroup * static_cast<int>(sizeof(s.values[0])));
      }
#pragma unroll
      for (int n = 0; n < kTogether && first + n < kGroups; ++n) {
        const int group = first + n;
        if (group * kGroup >= count) break;
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
          float part[4] = {};
          multiply(part, a[n], b[n][2 * j], b[n][2 * j + 1]);
#pragma unroll
          for (int e = 0; e < 2; ++e) y[j][e] = fmaf(share[group % kWarps], part[e] + part[e + 2], y[j][e]);
        }
      }
    }
  }

  // To the blocks that have these dimensions of all parts; what all dimensions share, to every block.
  __device__ void put(Shared<kDim>& s, const Parts<kDim>& parts, int heads) const {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    if (g >= heads) return;
    const uint32_t arrived = shared_address(&s.arrived);
    const auto put_pair = [&](void* place, int rank, float first, float second) {
      const uint2 pair = make_uint2(__float_as_uint(first), __float_as_uint(second));
      if (parts.count() == 1)  // launched without a cluster, where counted stores are illegal
        *static_cast<uint2*>(place) = pair;
      else
        put_counted(place, rank, pair, arrived);
    };
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      const int dim = (warp * kTiles + j) * 8 + 2 * t, rank = dim >> parts.log_width();
      put_pair(&s.mixes[parts.place(parts.part, g, dim & parts.width() - 1)], rank, y[j][0], y[j][1]);
    }
    if (t == 0 && warp < parts.count()) put_pair(&s.part_sums[parts.part][g], warp, top, sum);
  }
};

// Blocks: (part, group of heads, sequence); the parts of a group and sequence are a cluster.
template <int kDim>
__global__ void __launch_bounds__(kThreads, 2)
    step_attention_bf16_kernel(const __grid_constant__ StepAttention p) {
  extern __shared__ __align__(16) uint8_t memory[];
  auto& s = *reinterpret_cast<Shared<kDim>*>(memory);
  let_next_begin();
  const AttentionShape& shape = p.shape;
  const int sharing = static_cast<int>(shape.heads) / static_cast<int>(shape.kv_heads),
            head_groups = (sharing + kHeads - 1) / kHeads;
  const int kv_head = blockIdx.y / head_groups, within = blockIdx.y % head_groups * kHeads;
  const int first_head = kv_head * sharing + within, heads = min(kHeads, sharing - within);
  const int sequence = blockIdx.z, count_of_parts = gridDim.x, part = blockIdx.x;
  const Parts<kDim> parts{31 - __clz(count_of_parts), part};
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t arrived = shared_address(&s.arrived);
  if (threadIdx.x == 0) {
    init_barrier(arrived, 1);
    fence_barriers();
    expect_bytes(arrived, heads * (kDim * static_cast<int>(sizeof(float)) +
                                   count_of_parts * static_cast<int>(sizeof(uint2))));
  }
  __syncwarp();
  arrive_at_cluster();

  const int position = p.positions[sequence];
  const int each = (position + count_of_parts) >> parts.log_count;  // of position + 1 keys
  const Span span{part * each, min((part + 1) * each, position + 1), position};
  const int64_t column = sequence * p.sequence_stride + kv_head * kDim;
  Element* const keys = static_cast<Element*>(p.keys) + column;
  Element* const values = static_cast<Element*>(p.values) + column;
  copy_round<kDim>(keys, p.row_stride, span, span.begin, s.keys);
  commit_copies();
  copy_round<kDim>(values, p.row_stride, span, span.begin, s.values);
  commit_copies();
  Rotation<kDim / 64> rotation;
  rotation.prepare(p.frequencies, kDim / 2, position);
  wait_for_inputs();

  const int64_t key_column = (shape.heads + kv_head) * kDim;
  const float factor = kLog2e * rsqrtf(static_cast<float>(kDim));  // exponents to base 2
  const bool appends = span.holds_newest() && within == 0;
  for (int vector = warp; vector < heads; vector += kWarps)
    rotation.turn(p.qkv, sequence, int64_t{first_head + vector} * kDim, kDim / 2, p.q_norm, p.epsilon,
                  [&](int d, float x) {
                    s.queries[vector][d] = __float2bfloat16(x * factor);
                    s.queries[vector + kHeads][d] = __float2bfloat16(remainder_of(x * factor));
                  });
  // Lanes have the same dimensions of the step's key here as below. Warps that turn no query, if there are.
  const int key_warp = heads % kWarps, value_at = kThreads - 1 - static_cast<int>(threadIdx.x);
  if (span.holds_newest()) {
    if (warp == key_warp)
      rotation.turn(p.qkv, sequence, key_column, kDim / 2, p.k_norm, p.epsilon, [&](int d, float x) {
        s.newest_key[d] = __float2bfloat16(x);
        if (appends) keys[position * p.row_stride + d] = s.newest_key[d];
      });
    if (value_at < kDim) {
      s.newest_value[value_at] =
          __float2bfloat16(load_element(p.qkv, sequence, key_column + shape.kv_heads * kDim + value_at));
      if (appends) values[position * p.row_stride + value_at] = s.newest_value[value_at];
    }
  }

  Mix<kDim> mix;
  for (int first = span.begin; first < span.end; first += kRoundKeys) {
    const int count = span.count(first), next = first + kRoundKeys;
    if (position < first + count) {  // never before the last round
      if (warp == key_warp)
        for (int d = lane; d < kDim; d += 32) s.keys[position - first][d] = s.newest_key[d];
      if (value_at < kDim) s.values[position - first][value_at] = s.newest_value[value_at];
    }
    wait_copies<1>();
    __syncthreads();
    weigh(s, count);
    wait_copies<0>();
    __syncthreads();
    if (next < span.end) copy_round<kDim>(keys, p.row_stride, span, next, s.keys);
    commit_copies();
    mix.add_round(s, count);
    if (next >= span.end) break;
    __syncthreads();
    copy_round<kDim>(values, p.row_stride, span, next, s.values);
    commit_copies();
  }

  wait_for_arrivals();  // all blocks of the cluster have begun
  mix.put(s, parts, heads);
  if (parts.count() == 1)
    __syncthreads();
  else
    wait_barrier(arrived, 0);
  for (int i = threadIdx.x; i < heads << parts.log_width(); i += kThreads) {
    const int h = i >> parts.log_width(), d = i & parts.width() - 1;
    float top[kMostParts], sum[kMostParts], y[kMostParts];
#pragma unroll
    for (int other = 0; other < kMostParts; ++other) {
      const uint2 sums = s.part_sums[other][h];
      top[other] = other < parts.count() ? __uint_as_float(sums.x) : kLowest;
      sum[other] = other < parts.count() ? __uint_as_float(sums.y) : 0.0f;
      y[other] = other < parts.count() ? s.mixes[parts.place(other, h, d)] : 0.0f;
    }
    float highest = kLowest, total = 0, all = 0;
#pragma unroll
    for (int other = 0; other < kMostParts; ++other) highest = fmaxf(highest, top[other]);
#pragma unroll
    for (int other = 0; other < kMostParts; ++other) {
      const float share = exp2_fast(top[other] - highest);
      total = fmaf(share, sum[other], total);
      all = fmaf(share, y[other], all);
    }
    put_mix(p.out, sequence * p.out.stride + int64_t{first_head + h} * kDim + part * parts.width() + d,
            __fdividef(all, total));
  }
}

template <int kDim>
void launch(const StepAttention& task, int parts, Stream stream) {
  const int64_t sharing = task.shape.heads / task.shape.kv_heads;
  const dim3 grid(static_cast<unsigned>(parts),
                  static_cast<unsigned>(task.shape.kv_heads * ((sharing + kHeads - 1) / kHeads)),
                  static_cast<unsigned>(task.qkv.rows));
  launch_streaming("step attention", step_attention_bf16_kernel<kDim>,
                   {grid, dim3(kThreads), sizeof(Shared<kDim>), parts}, stream, task);
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
