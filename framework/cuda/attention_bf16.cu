#include "cuda/attention_kernels.h"
#include "cuda/elements.cuh"
#include "cuda/tensor_cores.cuh"

namespace grinqh::cuda {

namespace {

// Rows of kDim bf16 in shared memory; the 16-byte chunks of a row are permuted by its number so that
// ldmatrix meets all banks.
template <int kDim>
__device__ uint32_t chunk_address(uint32_t tile, int row, int chunk) {
  return tile + static_cast<uint32_t>(row * kDim * 2 + (chunk ^ (row & 7)) * 16);
}

// Starts copying rows [first, first + kRows) of a head; zero beyond `rows` and head_dim.
template <int kRows, int kDim, int kThreads>
__device__ void start_tile(uint32_t tile, const __nv_bfloat16* head, int64_t stride, int64_t first,
                           int64_t rows, int64_t head_dim) {
  constexpr int kChunks = kDim / kChunk;
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kChunks; i += kThreads) {
    const int r = i / kChunks, c = i % kChunks;
    const bool inside = first + r < rows && c * kChunk < head_dim;
    copy_async(chunk_address<kDim>(tile, r, c), inside ? head + (first + r) * stride + c * kChunk : head,
               inside);
  }
}

// A warp holds 16 queries: their scores against a tile of keys and their outputs stay in registers.
template <int kDim, int kWarps, int kKeys>
__global__ void __launch_bounds__(kWarps * 32)
    attention_bf16_kernel(AttentionShape shape, ConstView q, const SequenceSpan* sequences, int64_t kv_stride,
                          View out) {
  constexpr int kQueries = kWarps * 16, kThreads = kWarps * 32;
  constexpr uint32_t kTileBytes = kKeys * kDim * 2;
  extern __shared__ uint4 shared[];
  const uint32_t queries = shared_address(shared), tiles = queries + kQueries * kDim * 2;
  const auto key_tile = [&](int64_t j) { return tiles + static_cast<uint32_t>(j & 1) * kTileBytes; };
  const auto value_tile = [&](int64_t j) { return key_tile(j) + 2 * kTileBytes; };

  const SequenceSpan sequence = sequences[blockIdx.z];
  const int64_t begin = int64_t{gridDim.y - 1 - blockIdx.y} * kQueries;
  if (begin >= sequence.count) return;
  const int64_t head = blockIdx.x, kv_head = head / (shape.heads / shape.kv_heads);
  const auto* key_head = static_cast<const __nv_bfloat16*>(sequence.keys) + kv_head * shape.head_dim;
  const auto* value_head = static_cast<const __nv_bfloat16*>(sequence.values) + kv_head * shape.head_dim;
  const auto* query_head =
      reinterpret_cast<const __nv_bfloat16*>(row_of(q, sequence.first_row)) + head * shape.head_dim;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t seen = sequence.past + min(begin + kQueries, sequence.count);
  const auto start_keys = [&](int64_t j) {
    start_tile<kKeys, kDim, kThreads>(key_tile(j), key_head, kv_stride, j * kKeys, seen, shape.head_dim);
    start_tile<kKeys, kDim, kThreads>(value_tile(j), value_head, kv_stride, j * kKeys, seen, shape.head_dim);
  };
  start_tile<kQueries, kDim, kThreads>(queries, query_head, q.stride, begin, sequence.count, shape.head_dim);
  start_keys(0);
  commit_copies();

  // Positions of the warp's first query and of this lane's first row, lane / 4; its second is eight further.
  const int warp_begin = static_cast<int>(sequence.past + begin) + warp * 16, own = warp_begin + lane / 4;
  const float scale = kLog2e / sqrtf(static_cast<float>(shape.head_dim));
  float greatest[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  float result[kDim / 8][4] = {};
  const int64_t tile_count = (seen + kKeys - 1) / kKeys;
  for (int64_t j = 0; j < tile_count; ++j) {
    if (j + 1 < tile_count) start_keys(j + 1);
    commit_copies();
    wait_copies<1>();
    __syncthreads();

    float s[kKeys / 8][4] = {};
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      uint32_t a[4];
      load_matrices(a, chunk_address<kDim>(queries, warp * 16 + lane % 16, 2 * d + lane / 16));
#pragma unroll
      for (int k = 0; k < kKeys / 16; ++k) {
        uint32_t b[4];
        load_matrices(
            b, chunk_address<kDim>(key_tile(j), k * 16 + lane % 8 + lane / 16 * 8, 2 * d + lane / 8 % 2));
        multiply(s[2 * k], a, b[0], b[1]);
        multiply(s[2 * k + 1], a, b[2], b[3]);
      }
    }
    const int first_key = static_cast<int>(j) * kKeys;
    if (first_key + kKeys > warp_begin + 1) mask_after(s, {own - first_key, own + 8 - first_key}, lane);
    float shrink[2];
    running_softmax(s, scale, greatest, sum, shrink);
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) result[n][i] *= shrink[i / 2];

#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      const uint32_t a[4] = {pack_bf16(s[2 * k][0], s[2 * k][1]), pack_bf16(s[2 * k][2], s[2 * k][3]),
                             pack_bf16(s[2 * k + 1][0], s[2 * k + 1][1]),
                             pack_bf16(s[2 * k + 1][2], s[2 * k + 1][3])};
#pragma unroll
      for (int n = 0; n < kDim / 16; ++n) {
        uint32_t b[4];
        load_matrices_transposed(
            b, chunk_address<kDim>(value_tile(j), k * 16 + lane % 8 + lane / 8 % 2 * 8, 2 * n + lane / 16));
        multiply(result[2 * n], a, b[0], b[1]);
        multiply(result[2 * n + 1], a, b[2], b[3]);
      }
    }
    __syncthreads();  // before the copies of the tile after the next land here
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float share = 1.0f / lane_sum(sum[half], 4);
    const int64_t row = begin + warp * 16 + lane / 4 + half * 8;
    if (row >= sequence.count) continue;
    auto* to =
        reinterpret_cast<__nv_bfloat16*>(row_of(out, sequence.first_row + row)) + head * shape.head_dim;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n)
      if (n * 8 < shape.head_dim)
        *reinterpret_cast<uint32_t*>(to + n * 8 + lane % 4 * 2) =
            pack_bf16(result[n][2 * half] * share, result[n][2 * half + 1] * share);
  }
}

template <int kDim, int kWarps, int kKeys>
void launch(const AttentionTask& task, Stream stream) {
  constexpr int kShared = (kWarps * 16 + 4 * kKeys) * kDim * 2;
  const auto kernel = attention_bf16_kernel<kDim, kWarps, kKeys>;
  check_call(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
             "shared memory of attention_bf16");
  for_sequence_ranges(task, kWarps * 16, [&](dim3 grid, const SequenceSpan* sequences) {
    kernel<<<grid, kWarps * 32, kShared, stream>>>(task.shape, task.q, sequences, task.kv_stride, task.out);
    check_launch("attention_bf16", stream);
  });
}

}  // namespace

// Shared memory stays within the 99 KiB a block that sm_89 has.
void attention_bf16(const AttentionTask& task, Stream stream) {
  if (task.shape.head_dim <= 64)
    launch<64, 8, 64>(task, stream);
  else if (task.shape.head_dim <= 128)
    launch<128, 8, 64>(task, stream);
  else
    launch<256, 4, 32>(task, stream);
}

}  // namespace grinqh::cuda
