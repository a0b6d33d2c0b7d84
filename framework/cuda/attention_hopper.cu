#include "cuda/attention_kernels.h"
#include "cuda/device_properties.h"
#include "cuda/elements.cuh"
#include "cuda/tensor_cores.cuh"
#include "cuda/warpgroup.cuh"

namespace grinqh::cuda {

namespace {

[[maybe_unused]] constexpr int kQueries = 128, kKeys = 64;  // of a tile
constexpr int kThreads = 256;                               // two warpgroups of 64 queries

// Panels of 64 dimensions side by side.
template <int kRows>
constexpr uint32_t kPanelBytes = kRows * 128;
template <int kRows, int kDim>
constexpr uint32_t kTileBytes = kDim / 64 * kPanelBytes<kRows>;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Starts copying kRows rows of a head from `first` on; zero beyond `rows`.
template <int kRows, int kDim>
__device__ void start_tile(uint32_t tile, const __nv_bfloat16* head, int64_t stride, int64_t first,
                           int64_t rows) {
  constexpr int kChunks = kDim / kChunk, kStep = kThreads / kChunks;
  const int r = static_cast<int>(threadIdx.x) / kChunks, c = static_cast<int>(threadIdx.x) % kChunks;
  const __nv_bfloat16* from = head + (first + r) * stride + c * kChunk;
  uint32_t to = tile + static_cast<uint32_t>(c / 8) * kPanelBytes<kRows> +
                static_cast<uint32_t>(r) * kPanelRowBytes + static_cast<uint32_t>((c % 8) ^ (r % 8)) * 16;
  const int64_t inside = rows - first - r;  // kStep is a multiple of 8: the permutation stays
#pragma unroll
  for (int i = 0; i < kRows / kStep; ++i) {
    copy_async(to, i * kStep < inside ? from : head, i * kStep < inside);
    from += kStep * stride;
    to += kStep * kPanelRowBytes;
  }
}

// s = q k^T of a warpgroup's 64 queries, started.
template <int kDim>
__device__ void start_scores(float (&s)[kKeys / 8][4], uint32_t queries, uint32_t keys) {
  fence_products();
#pragma unroll
  for (int d = 0; d < kDim / 16; ++d) {
    const uint32_t in_panel = d % 4 * 32;
    multiply_shared(s, matrix_descriptor(queries + d / 4 * kPanelBytes<kQueries> + in_panel, 16),
                    matrix_descriptor(keys + d / 4 * kPanelBytes<kKeys> + in_panel, 16), d > 0);
  }
  commit_products();
}

// result += p v, started.
template <int kDim>
__device__ void start_outputs(float (&result)[kDim / 8][4], const uint32_t (&p)[kKeys / 16][4],
                              uint32_t values) {
  fence_products();
#pragma unroll
  for (int k = 0; k < kKeys / 16; ++k)
    multiply_registers(result, p[k], matrix_descriptor(values + k * 16 * kPanelRowBytes, kPanelBytes<kKeys>));
  commit_products();
}

__device__ inline void pack_probabilities(const float (&s)[kKeys / 8][4], uint32_t (&p)[kKeys / 16][4]) {
#pragma unroll
  for (int k = 0; k < kKeys / 16; ++k) {
    p[k][0] = pack_bf16(s[2 * k][0], s[2 * k][1]);
    p[k][1] = pack_bf16(s[2 * k][2], s[2 * k][3]);
    p[k][2] = pack_bf16(s[2 * k + 1][0], s[2 * k + 1][1]);
    p[k][3] = pack_bf16(s[2 * k + 1][2], s[2 * k + 1][3]);
  }
}

#endif

// Two blocks share a multiprocessor: one's softmax runs beside the other's products. Registers for that are
// had by tiles of 64 keys. The body is empty in machine code for other GPUs.
template <int kDim>
__global__ void __launch_bounds__(kThreads, 2)
    attention_hopper_kernel(AttentionShape shape, ConstView q, const SequenceSpan* sequences,
                            int64_t kv_stride, View out) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ uint4 shared[];
  const uint32_t queries = (shared_address(shared) + 1023u) & ~1023u,
                 tiles = queries + kTileBytes<kQueries, kDim>;
  const auto key_tile = [&](int j) { return tiles + static_cast<uint32_t>(j & 1) * kTileBytes<kKeys, kDim>; };
  const auto value_tile = [&](int j) { return key_tile(j) + 2 * kTileBytes<kKeys, kDim>; };

  const SequenceSpan sequence = sequences[blockIdx.z];
  const int64_t begin = int64_t{gridDim.y - 1 - blockIdx.y} * kQueries;
  if (begin >= sequence.count) return;
  const int64_t head = blockIdx.x, kv_head = head / (shape.heads / shape.kv_heads);
  const auto* key_head = static_cast<const __nv_bfloat16*>(sequence.keys) + kv_head * kDim;
  const auto* value_head = static_cast<const __nv_bfloat16*>(sequence.values) + kv_head * kDim;
  const auto* query_head =
      reinterpret_cast<const __nv_bfloat16*>(row_of(q, sequence.first_row)) + head * kDim;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int seen = static_cast<int>(sequence.past + min(begin + kQueries, sequence.count));
  const int tile_count = (seen + kKeys - 1) / kKeys;

  const auto start_keys = [&](int j) {
    start_tile<kKeys, kDim>(key_tile(j), key_head, kv_stride, j * kKeys, seen);
    start_tile<kKeys, kDim>(value_tile(j), value_head, kv_stride, j * kKeys, seen);
  };
  start_tile<kQueries, kDim>(queries, query_head, q.stride, begin, sequence.count);
  start_keys(0);
  commit_copies();

  // Positions of the warpgroup's first query and of this lane's rows, lane / 4 and lane / 4 + 8 of the
  // warp's.
  const int group_begin = static_cast<int>(sequence.past + begin) + warp / 4 * 64;
  const int own = group_begin + warp % 4 * 16 + lane / 4;
  const float scale = kLog2e / sqrtf(static_cast<float>(kDim));
  const uint32_t my_queries = queries + static_cast<uint32_t>(warp / 4) * 64 * kPanelRowBytes;
  float greatest[2] = {-INFINITY, -INFINITY}, sum[2] = {}, shrink[2];
  float s[kKeys / 8][4] = {}, result[kDim / 8][4] = {};
  uint32_t p[kKeys / 16][4];
  for (int j = 0; j < tile_count; ++j) {
    wait_copies<0>();
    fence_shared_for_products();
    __syncthreads();  // tile j is there, and all are done with tile j - 1
    if (j + 1 < tile_count) start_keys(j + 1);
    commit_copies();
    if (j * kKeys >= group_begin + 64) continue;  // all of the warpgroup's queries come before these keys
    start_scores<kDim>(s, my_queries, key_tile(j));
    wait_products<0>();
    after_wait(s);
    if ((j + 1) * kKeys > group_begin + 1) mask_after(s, {own - j * kKeys, own + 8 - j * kKeys}, lane);
    running_softmax(s, scale, greatest, sum, shrink);
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) result[n][i] *= shrink[i / 2];
    pack_probabilities(s, p);
    start_outputs<kDim>(result, p, value_tile(j));
    wait_products<0>();
    after_wait(result);
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float share = 1.0f / lane_sum(sum[half], 4);
    const int64_t row = begin + warp * 16 + lane / 4 + half * 8;
    if (row >= sequence.count) continue;
    auto* to = reinterpret_cast<__nv_bfloat16*>(row_of(out, sequence.first_row + row)) + head * kDim;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n)
      *reinterpret_cast<uint32_t*>(to + n * 8 + lane % 4 * 2) =
          pack_bf16(result[n][2 * half] * share, result[n][2 * half + 1] * share);
  }
#endif
}

// Whether this GPU runs machine code for sm_90a of this build: the empty body needs next to no registers.
template <int kDim>
bool has_body() {
  const DeviceProperties device = device_properties();
  if (device.major != 9 || device.minor != 0) return false;
  cudaFuncAttributes attributes{};
  check_call(cudaFuncGetAttributes(&attributes, attention_hopper_kernel<kDim>), "cudaFuncGetAttributes");
  return attributes.numRegs > 64;
}

template <int kDim>
bool launch(const AttentionTask& task, Stream stream) {
  static const bool applies = has_body<kDim>();
  if (!applies) return false;
  constexpr int kShared = static_cast<int>(kTileBytes<kQueries, kDim> + 4 * kTileBytes<kKeys, kDim> + 1024);
  const auto kernel = attention_hopper_kernel<kDim>;
  check_call(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
             "shared memory of attention_hopper");
  for_sequence_ranges(task, kQueries, [&](dim3 grid, const SequenceSpan* sequences) {
    kernel<<<grid, kThreads, kShared, stream>>>(task.shape, task.q, sequences, task.kv_stride, task.out);
    check_launch("attention_hopper", stream);
  });
  return true;
}

}  // namespace

bool attention_hopper(const AttentionTask& task, Stream stream) {
  if (task.shape.head_dim == 128) return launch<128>(task, stream);
  if (task.shape.head_dim == 64) return launch<64>(task, stream);
  return false;
}

}  // namespace grinqh::cuda
