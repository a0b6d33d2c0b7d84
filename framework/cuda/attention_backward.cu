// Two kernels over tiles of kTile queries and kTile keys, both float32 throughout. One has the queries' side
// of the gradient and finds the softmax's statistics on the way (online, as FlashAttention: Dao et al.,
// 2205.14135); the other has the keys' side and adds up the query heads of a key head in their order.
#include <cmath>

#include "cuda/backward.h"
#include "cuda/typed_elements.cuh"

namespace grinqh::cuda {

namespace {

constexpr int kThreads = 256;  // 16 x 16: thread (y, x) has rows y + 16 i and columns x + 16 j of a tile
constexpr int kSide = 16;

// One of `rows` x heads: the greatest score, the inverse of the sum of exponentials, the sum of out o d_out.
struct Statistics {
  float *maximum, *inverse, *mean;
};

struct Shape {
  int heads, kv_heads, head_dim;
  float scale;
};

template <class T>
struct Operands {
  const T *q, *k, *v, *d_out;
  T *d_q, *d_k, *d_v;
  int64_t q_stride, k_stride, v_stride, d_out_stride, d_q_stride, d_k_stride, d_v_stride;
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    output_means_kernel(const T* out, int64_t out_stride, const T* d_out, int64_t d_out_stride, int64_t pairs,
                        Shape shape, float* mean) {
  const int64_t pair = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (pair >= pairs) return;
  const int64_t row = pair / shape.heads, offset = pair % shape.heads * shape.head_dim;
  float sum = 0;
  if (const int i = threadIdx.x % 32 * 8; i < shape.head_dim) {
    float x[8], d[8];
    load8(out + row * out_stride + offset + i).unpack(x);
    load8(d_out + row * d_out_stride + offset + i).unpack(d);
    for (int j = 0; j < 8; ++j) sum += x[j] * d[j];
  }
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
  if (threadIdx.x % 32 == 0) mean[pair] = sum;
}

// The arithmetic of one block. A side of the product is a tile [kTile, kDim] in shared memory, heads narrower
// than kDim padded with zeros; pitches keep 16 rows' float4 in different banks.
template <int kDim, int kTile>
struct Tiles {
  static constexpr int kPitch = kDim + 4, kWeightPitch = kTile + 4;
  static constexpr int kMicro = kTile / kSide, kCols = kDim / kSide;
  static constexpr int kFloats = kTile * kPitch;
  static constexpr int kBytes = (4 * kFloats + kTile * kWeightPitch) * static_cast<int>(sizeof(float));

  using Scores = float[kMicro][kMicro];  // (y + 16 i, x + 16 j)
  using Sums = float[kMicro][kCols];     // row y + 16 i, columns 64 g + 4 x + 0..3

  static __device__ int y() { return threadIdx.x / kSide; }
  static __device__ int x() { return threadIdx.x % kSide; }

  // Rows from `rows` on and columns from `head_dim` on are zeros.
  template <class T>
  static __device__ void load(const T* from, int64_t stride, int64_t rows, int head_dim, float* to) {
    constexpr int kChunks = kDim / 8;
#pragma unroll 4
    for (int i = threadIdx.x; i < kTile * kChunks; i += kThreads) {
      const int row = i / kChunks, col = i % kChunks * 8;
      float values[8] = {};
      if (row < rows && col < head_dim) load8(from + row * stride + col).unpack(values);
      store8_part(values, 8, to + row * kPitch + col);
    }
  }

  // out = a b^T
  static __device__ void multiply(const float* a, const float* b, Scores& out) {
    for (int i = 0; i < kMicro; ++i)
      for (int j = 0; j < kMicro; ++j) out[i][j] = 0;
    a += y() * kPitch;
    b += x() * kPitch;
#pragma unroll 4
    for (int d = 0; d < kDim; d += 4) {
      float4 left[kMicro], right[kMicro];
#pragma unroll
      for (int i = 0; i < kMicro; ++i) {
        left[i] = *reinterpret_cast<const float4*>(a + i * kSide * kPitch + d);
        right[i] = *reinterpret_cast<const float4*>(b + i * kSide * kPitch + d);
      }
#pragma unroll
      for (int i = 0; i < kMicro; ++i)
#pragma unroll
        for (int j = 0; j < kMicro; ++j) {
          out[i][j] += left[i].x * right[j].x;
          out[i][j] += left[i].y * right[j].y;
          out[i][j] += left[i].z * right[j].z;
          out[i][j] += left[i].w * right[j].w;
        }
    }
  }

  // sums += weights b, by way of shared memory. A row of the weights is written and read by one warp.
  static __device__ void add_product(const Scores& weights, const float* b, float* shared, Sums& sums) {
    shared += y() * kWeightPitch;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kMicro; ++i)
#pragma unroll
      for (int j = 0; j < kMicro; ++j) shared[i * kSide * kWeightPitch + x() + kSide * j] = weights[i][j];
    __syncwarp();
    b += 4 * x();
#pragma unroll 2
    for (int k = 0; k < kTile; k += 4) {
      float4 left[kMicro];
#pragma unroll
      for (int i = 0; i < kMicro; ++i)
        left[i] = *reinterpret_cast<const float4*>(shared + i * kSide * kWeightPitch + k);
#pragma unroll
      for (int step = 0; step < 4; ++step)
#pragma unroll
        for (int g = 0; g < kCols / 4; ++g) {
          const float4 right = *reinterpret_cast<const float4*>(b + (k + step) * kPitch + 64 * g);
#pragma unroll
          for (int i = 0; i < kMicro; ++i) {
            const float weight = step == 0   ? left[i].x
                                 : step == 1 ? left[i].y
                                 : step == 2 ? left[i].z
                                             : left[i].w;
            sums[i][4 * g] += weight * right.x;
            sums[i][4 * g + 1] += weight * right.y;
            sums[i][4 * g + 2] += weight * right.z;
            sums[i][4 * g + 3] += weight * right.w;
          }
        }
    }
  }

  // to(r, :) = factor[r] * sums
  template <class T>
  static __device__ void save(const Sums& sums, const float (&factor)[kMicro], int64_t rows, int head_dim,
                              T* to, int64_t stride) {
#pragma unroll
    for (int i = 0; i < kMicro; ++i) {
      const int row = y() + kSide * i;
      if (row >= rows) continue;
#pragma unroll
      for (int c = 0; c < kCols; ++c)
        if (const int col = c / 4 * 64 + 4 * x() + c % 4; col < head_dim)
          store(factor[i] * sums[i][c], to + row * stride + col);
    }
  }
};

__device__ float row_maximum(float value) {
  for (int lanes = kSide / 2; lanes > 0; lanes /= 2)
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, lanes));
  return value;
}
__device__ float row_sum(float value) {
  for (int lanes = kSide / 2; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
  return value;
}

// d_q = scale sum_j P_j (dP_j - mean) k_j of a tile of queries of one head, and the statistics of P.
template <int kDim, int kTile, class T>
__global__ void __launch_bounds__(kThreads)
    query_gradient_kernel(Operands<T> at, Shape shape, const SequenceSpan* sequences, Statistics statistics) {
  using Tile = Tiles<kDim, kTile>;
  extern __shared__ float4 storage[];
  float* queries = reinterpret_cast<float*>(storage);
  float *gradients = queries + Tile::kFloats, *keys = gradients + Tile::kFloats,
        *values = keys + Tile::kFloats, *weights = values + Tile::kFloats;

  const int head = blockIdx.x % shape.heads;
  const SequenceSpan sequence = sequences[blockIdx.x / shape.heads];
  // Those with the most keys first.
  const int64_t begin = static_cast<int64_t>(gridDim.y - 1 - blockIdx.y) * kTile;
  if (begin >= sequence.count) return;
  const int64_t rows = min(sequence.count - begin, int64_t{kTile});
  const int64_t first = sequence.first_row + begin, offset = static_cast<int64_t>(head) * shape.head_dim;
  const int64_t kv_offset = static_cast<int64_t>(head / (shape.heads / shape.kv_heads)) * shape.head_dim;
  Tile::load(at.q + first * at.q_stride + offset, at.q_stride, rows, shape.head_dim, queries);
  Tile::load(at.d_out + first * at.d_out_stride + offset, at.d_out_stride, rows, shape.head_dim, gradients);

  float maximum[Tile::kMicro], total[Tile::kMicro], mean[Tile::kMicro];
  typename Tile::Sums sums;
#pragma unroll
  for (int i = 0; i < Tile::kMicro; ++i) {
    const int row = Tile::y() + kSide * i;
    maximum[i] = -INFINITY;
    total[i] = 0;
    mean[i] = row < rows ? statistics.mean[(first + row) * shape.heads + head] : 0.0f;
    for (int c = 0; c < Tile::kCols; ++c) sums[i][c] = 0;
  }
  for (int64_t key = 0; key <= begin; key += kTile) {
    const int64_t key_row = sequence.first_row + key, key_rows = min(sequence.count - key, int64_t{kTile});
    __syncthreads();
    Tile::load(at.k + key_row * at.k_stride + kv_offset, at.k_stride, key_rows, shape.head_dim, keys);
    Tile::load(at.v + key_row * at.v_stride + kv_offset, at.v_stride, key_rows, shape.head_dim, values);
    __syncthreads();
    typename Tile::Scores p, d_p;
    Tile::multiply(queries, keys, p);
    Tile::multiply(gradients, values, d_p);
#pragma unroll
    for (int i = 0; i < Tile::kMicro; ++i) {
      // Key 0 is seen by every query, so that the maximum is finite from the first tile on.
      float top = -INFINITY;
#pragma unroll
      for (int j = 0; j < Tile::kMicro; ++j) {
        const bool seen = key + Tile::x() + kSide * j <= begin + Tile::y() + kSide * i;
        p[i][j] = seen ? shape.scale * p[i][j] : -INFINITY;
        top = fmaxf(top, p[i][j]);
      }
      top = fmaxf(maximum[i], row_maximum(top));
      const float shrink = expf(maximum[i] - top);
      maximum[i] = top;
      float part = 0;
#pragma unroll
      for (int j = 0; j < Tile::kMicro; ++j) {
        const float share = expf(p[i][j] - top);
        part += share;
        p[i][j] = share * (d_p[i][j] - mean[i]);
      }
      total[i] = total[i] * shrink + row_sum(part);
#pragma unroll
      for (int c = 0; c < Tile::kCols; ++c) sums[i][c] *= shrink;
    }
    Tile::add_product(p, keys, weights, sums);
  }
  float factor[Tile::kMicro];
#pragma unroll
  for (int i = 0; i < Tile::kMicro; ++i) {
    const int row = Tile::y() + kSide * i;
    const float inverse = 1.0f / total[i];
    factor[i] = shape.scale * inverse;
    if (Tile::x() != 0 || row >= rows) continue;
    statistics.maximum[(first + row) * shape.heads + head] = maximum[i];
    statistics.inverse[(first + row) * shape.heads + head] = inverse;
  }
  Tile::save(sums, factor, rows, shape.head_dim, at.d_q + first * at.d_q_stride + offset, at.d_q_stride);
}

// d_v = sum_t P_t d_out_t and d_k = scale sum_t P_t (dP_t - mean_t) q_t of a tile of keys of one key head,
// over the queries of all heads that read it. Here the tile's rows are keys, its columns queries.
template <int kDim, int kTile, class T>
__global__ void __launch_bounds__(kThreads)
    key_gradient_kernel(Operands<T> at, Shape shape, const SequenceSpan* sequences, Statistics statistics) {
  using Tile = Tiles<kDim, kTile>;
  extern __shared__ float4 storage[];
  float* keys = reinterpret_cast<float*>(storage);
  float *values = keys + Tile::kFloats, *queries = values + Tile::kFloats,
        *gradients = queries + Tile::kFloats, *weights = gradients + Tile::kFloats;

  const int kv_head = blockIdx.x % shape.kv_heads, group = shape.heads / shape.kv_heads;
  const SequenceSpan sequence = sequences[blockIdx.x / shape.kv_heads];
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * kTile;  // those with the most queries first
  if (begin >= sequence.count) return;
  const int64_t rows = min(sequence.count - begin, int64_t{kTile});
  const int64_t first = sequence.first_row + begin,
                kv_offset = static_cast<int64_t>(kv_head) * shape.head_dim;
  Tile::load(at.k + first * at.k_stride + kv_offset, at.k_stride, rows, shape.head_dim, keys);
  Tile::load(at.v + first * at.v_stride + kv_offset, at.v_stride, rows, shape.head_dim, values);

  typename Tile::Sums d_k = {}, d_v = {};
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const int64_t offset = static_cast<int64_t>(head) * shape.head_dim;
    for (int64_t query = begin; query < sequence.count; query += kTile) {
      const int64_t query_row = sequence.first_row + query;
      const int64_t query_rows = min(sequence.count - query, int64_t{kTile});
      __syncthreads();
      Tile::load(at.q + query_row * at.q_stride + offset, at.q_stride, query_rows, shape.head_dim, queries);
      Tile::load(at.d_out + query_row * at.d_out_stride + offset, at.d_out_stride, query_rows, shape.head_dim,
                 gradients);
      float maximum[Tile::kMicro], inverse[Tile::kMicro], mean[Tile::kMicro];
#pragma unroll
      for (int j = 0; j < Tile::kMicro; ++j) {
        const int col = Tile::x() + kSide * j;
        const int64_t i = (query_row + col) * shape.heads + head;
        maximum[j] = col < query_rows ? statistics.maximum[i] : 0.0f;
        inverse[j] = col < query_rows ? statistics.inverse[i] : 0.0f;
        mean[j] = col < query_rows ? statistics.mean[i] : 0.0f;
      }
      __syncthreads();
      typename Tile::Scores p, d_p;
      Tile::multiply(keys, queries, p);
      Tile::multiply(values, gradients, d_p);
#pragma unroll
      for (int i = 0; i < Tile::kMicro; ++i)
#pragma unroll
        for (int j = 0; j < Tile::kMicro; ++j) {
          const int col = Tile::x() + kSide * j;
          const bool seen = begin + Tile::y() + kSide * i <= query + col && col < query_rows;
          p[i][j] = seen ? expf(shape.scale * p[i][j] - maximum[j]) * inverse[j] : 0.0f;
          d_p[i][j] = p[i][j] * (d_p[i][j] - mean[j]);
        }
      Tile::add_product(p, gradients, weights, d_v);
      Tile::add_product(d_p, queries, weights, d_k);
    }
  }
  float one[Tile::kMicro], scale[Tile::kMicro];
#pragma unroll
  for (int i = 0; i < Tile::kMicro; ++i) {
    one[i] = 1.0f;
    scale[i] = shape.scale;
  }
  Tile::save(d_k, scale, rows, shape.head_dim, at.d_k + first * at.d_k_stride + kv_offset, at.d_k_stride);
  Tile::save(d_v, one, rows, shape.head_dim, at.d_v + first * at.d_v_stride + kv_offset, at.d_v_stride);
}

int shared_memory_of_a_block() {
  int device = 0, bytes = 0;
  check_call(cudaGetDevice(&device), "cudaGetDevice");
  check_call(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
             "cudaDeviceGetAttribute");
  return bytes;
}

template <class T>
struct Launch {
  const Operands<T>& at;
  const Shape& shape;
  const SequenceSpan* sequences;
  int64_t count, longest;
  const Statistics& statistics;
  Stream stream;

  template <int kDim, int kTile>
  void run() const {
    constexpr int kBytes = Tiles<kDim, kTile>::kBytes;
    const auto tiles = static_cast<unsigned>((longest + kTile - 1) / kTile);
    const auto launch = [&](auto kernel, int heads, const char* name) {
      check_call(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes), name);
      kernel<<<dim3(static_cast<unsigned>(count * heads), tiles), kThreads, kBytes, stream>>>(
          at, shape, sequences, statistics);
      check_launch(name, stream);
    };
    launch(query_gradient_kernel<kDim, kTile, T>, shape.heads, "query_gradient");
    launch(key_gradient_kernel<kDim, kTile, T>, shape.kv_heads, "key_gradient");
  }

  // The larger of two tiles where a block may have that much shared memory.
  template <int kDim, int kTile>
  void run_within(int bytes) const {
    if (Tiles<kDim, kTile>::kBytes <= bytes)
      run<kDim, kTile>();
    else
      run<kDim, kTile / 2>();
  }
};

}  // namespace

int64_t attention_backward_scratch(const AttentionShape& shape, int64_t tokens) {
  return 3 * tokens * shape.heads;
}

void attention_backward(const AttentionShape& shape, const AttentionBackward& parts,
                        const SequenceSpan* sequences, int64_t count, int64_t longest, float* scratch,
                        Stream stream) {
  const int64_t pairs = parts.q.rows * shape.heads;
  if (pairs == 0 || count == 0 || longest == 0) return;
  const Statistics statistics{scratch, scratch + pairs, scratch + 2 * pairs};
  const Shape small{static_cast<int>(shape.heads), static_cast<int>(shape.kv_heads),
                    static_cast<int>(shape.head_dim), 1.0f / sqrtf(static_cast<float>(shape.head_dim))};
  with_type(parts.q.type, [&](auto element) {
    using T = decltype(element);
    const auto read = [](ConstView view) { return static_cast<const T*>(view.data); };
    const auto write = [](View view) { return static_cast<T*>(view.data); };
    output_means_kernel<<<static_cast<unsigned>((pairs + kThreads / 32 - 1) / (kThreads / 32)), kThreads, 0,
                          stream>>>(read(parts.out), parts.out.stride, read(parts.d_out), parts.d_out.stride,
                                    pairs, small, statistics.mean);
    check_launch("output_means", stream);
    const Operands<T> at{read(parts.q),    read(parts.k),    read(parts.v),      read(parts.d_out),
                         write(parts.d_q), write(parts.d_k), write(parts.d_v),   parts.q.stride,
                         parts.k.stride,   parts.v.stride,   parts.d_out.stride, parts.d_q.stride,
                         parts.d_k.stride, parts.d_v.stride};
    const Launch<T> launch{at, small, sequences, count, longest, statistics, stream};
    const int bytes = shared_memory_of_a_block();
    if (shape.head_dim <= 64)
      launch.template run_within<64, 64>(bytes);
    else if (shape.head_dim <= 128)
      launch.template run_within<128, 64>(bytes);
    else
      launch.template run_within<256, 32>(bytes);
  });
}

}  // namespace grinqh::cuda
