#include "cuda/attention_kernels.h"
#include "cuda/elements.cuh"

namespace grinqh::cuda {

namespace {

constexpr int kThreads = 256;  // 16 x 16: y over queries, x over keys, then over dimensions
constexpr int kSide = 16;
constexpr int kPad = 4;  // floats after a row of shared memory, so that neighbours' rows use other banks

// Rows [first, first + kRows) of a head's columns, times scale; zero beyond `rows` and head_dim.
template <int kRows, int kDim>
__device__ void load_tile(float* tile, const char* head, int64_t stride, int64_t first, int64_t rows,
                          int64_t head_dim, float scale) {
  constexpr int kQuads = kDim / 4;
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kQuads; i += kThreads) {
    const int r = i / kQuads, d = i % kQuads * 4;
    float4 v{};
    if (first + r < rows && d < head_dim)
      v = *reinterpret_cast<const float4*>(reinterpret_cast<const float*>(head) + (first + r) * stride + d);
    *reinterpret_cast<float4*>(tile + r * (kDim + kPad) + d) = {v.x * scale, v.y * scale, v.z * scale,
                                                                v.w * scale};
  }
}

// Queries y, y + 16, ... and keys x, x + 16, ... of a thread; its outputs are the dimensions 4 x + 64 j.
template <int kDim, int kQueries, int kKeys>
__global__ void __launch_bounds__(kThreads)
    attention_f32_kernel(AttentionShape shape, ConstView q, const SequenceSpan* sequences, int64_t kv_stride,
                         View out) {
  constexpr int kRows = kQueries / kSide, kCols = kKeys / kSide, kParts = kDim / 64;
  constexpr int kWidth = kDim + kPad, kScoreWidth = kKeys + kPad;
  extern __shared__ float4 shared[];
  auto* queries = reinterpret_cast<float*>(shared);
  float* keys = queries + kQueries * kWidth;  // then the values
  float* scores = keys + kKeys * kWidth;

  const SequenceSpan sequence = sequences[blockIdx.z];
  const int64_t begin = int64_t{gridDim.y - 1 - blockIdx.y} * kQueries;
  if (begin >= sequence.count) return;
  const int64_t head = blockIdx.x, kv_head = head / (shape.heads / shape.kv_heads);
  const int x = static_cast<int>(threadIdx.x) % kSide, y = static_cast<int>(threadIdx.x) / kSide;
  const auto* key_head =
      reinterpret_cast<const char*>(static_cast<const float*>(sequence.keys) + kv_head * shape.head_dim);
  const auto* value_head =
      reinterpret_cast<const char*>(static_cast<const float*>(sequence.values) + kv_head * shape.head_dim);
  const char* query_head = row_of(q, sequence.first_row) + head * shape.head_dim * 4;
  load_tile<kQueries, kDim>(queries, query_head, q.stride, begin, sequence.count, shape.head_dim,
                            1.0f / sqrtf(static_cast<float>(shape.head_dim)));

  float greatest[kRows], sum[kRows], result[kRows][kParts][4] = {};
#pragma unroll
  for (int r = 0; r < kRows; ++r) greatest[r] = -INFINITY, sum[r] = 0;
  const int64_t seen = sequence.past + min(begin + kQueries, sequence.count);
  for (int64_t first = 0; first < seen; first += kKeys) {
    __syncthreads();  // the values of the tile before are used
    load_tile<kKeys, kDim>(keys, key_head, kv_stride, first, seen, shape.head_dim, 1.0f);
    __syncthreads();
    float s[kRows][kCols] = {};
#pragma unroll 4
    for (int d = 0; d < kDim; d += 4) {
      float4 a[kRows], b[kCols];
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        a[r] = *reinterpret_cast<const float4*>(queries + (y + r * kSide) * kWidth + d);
#pragma unroll
      for (int c = 0; c < kCols; ++c)
        b[c] = *reinterpret_cast<const float4*>(keys + (x + c * kSide) * kWidth + d);
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int c = 0; c < kCols; ++c) {
          s[r][c] = fmaf(a[r].x, b[c].x, s[r][c]);
          s[r][c] = fmaf(a[r].y, b[c].y, s[r][c]);
          s[r][c] = fmaf(a[r].z, b[c].z, s[r][c]);
          s[r][c] = fmaf(a[r].w, b[c].w, s[r][c]);
        }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t last = sequence.past + begin + y + r * kSide;  // the query's own key
      float top = greatest[r];
#pragma unroll
      for (int c = 0; c < kCols; ++c) {
        if (first + x + c * kSide > last) s[r][c] = -INFINITY;
        top = fmaxf(top, s[r][c]);
      }
      for (int step = kSide / 2; step > 0; step /= 2)
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
      const float shrink = expf(greatest[r] - top);
      greatest[r] = top;
      float part = 0;
#pragma unroll
      for (int c = 0; c < kCols; ++c) {
        s[r][c] = expf(s[r][c] - top);
        part += s[r][c];
        scores[(y + r * kSide) * kScoreWidth + x + c * kSide] = s[r][c];
      }
      sum[r] = sum[r] * shrink + lane_sum(part, kSide);
#pragma unroll
      for (int j = 0; j < kParts; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) result[r][j][i] *= shrink;
    }
    __syncthreads();  // the keys are used, the scores are there
    load_tile<kKeys, kDim>(keys, value_head, kv_stride, first, seen, shape.head_dim, 1.0f);
    __syncthreads();
#pragma unroll 2
    for (int k = 0; k < kKeys; k += 4) {
      float p[kRows][4];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const auto v = *reinterpret_cast<const float4*>(scores + (y + r * kSide) * kScoreWidth + k);
        p[r][0] = v.x, p[r][1] = v.y, p[r][2] = v.z, p[r][3] = v.w;
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < kParts; ++j) {
          const auto v = *reinterpret_cast<const float4*>(keys + (k + i) * kWidth + 4 * x + 64 * j);
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            result[r][j][0] = fmaf(p[r][i], v.x, result[r][j][0]);
            result[r][j][1] = fmaf(p[r][i], v.y, result[r][j][1]);
            result[r][j][2] = fmaf(p[r][i], v.z, result[r][j][2]);
            result[r][j][3] = fmaf(p[r][i], v.w, result[r][j][3]);
          }
        }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t row = begin + y + r * kSide;
    if (row >= sequence.count) break;
    auto* to = reinterpret_cast<float*>(row_of(out, sequence.first_row + row)) + head * shape.head_dim;
    const float share = 1.0f / sum[r];
#pragma unroll
    for (int j = 0; j < kParts; ++j) {
      const int d = 4 * x + 64 * j;
      if (d < shape.head_dim)
        *reinterpret_cast<float4*>(to + d) = {result[r][j][0] * share, result[r][j][1] * share,
                                              result[r][j][2] * share, result[r][j][3] * share};
    }
  }
}

template <int kDim, int kQueries, int kKeys>
void launch(const AttentionTask& task, Stream stream) {
  constexpr int kShared =
      ((kQueries + kKeys) * (kDim + kPad) + kQueries * (kKeys + kPad)) * static_cast<int>(sizeof(float));
  const auto kernel = attention_f32_kernel<kDim, kQueries, kKeys>;
  check_call(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
             "shared memory of attention_f32");
  for_sequence_ranges(task, kQueries, [&](dim3 grid, const SequenceSpan* sequences) {
    kernel<<<grid, kThreads, kShared, stream>>>(task.shape, task.q, sequences, task.kv_stride, task.out);
    check_launch("attention_f32", stream);
  });
}

}  // namespace

void attention_f32(const AttentionTask& task, Stream stream) {
  if (task.shape.head_dim <= 64)
    launch<64, 64, 64>(task, stream);
  else if (task.shape.head_dim <= 128)
    launch<128, 64, 64>(task, stream);
  else
    launch<256, 32, 32>(task, stream);
}

}  // namespace grinqh::cuda
