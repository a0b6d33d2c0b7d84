#include "cuda/elements.cuh"
#include "cuda/ops.h"

namespace grinqh::cuda {

namespace {

constexpr int kThreads = 256;

// A block turns `tokens` rows. Sine and cosine of an angle are computed once a token and serve all heads.
// Dynamic shared memory: [tokens, half] cosines, then as many sines.
__global__ void rope_kernel(View x, const int32_t* positions, const float* frequencies, int half,
                            float direction, int tokens, bool aligned) {
  extern __shared__ float angles[];
  float* cosine = angles;
  float* sine = angles + tokens * half;
  const int64_t first = int64_t{blockIdx.x} * tokens;
  const int here = static_cast<int>(min(int64_t{tokens}, x.rows - first));
  for (int i = static_cast<int>(threadIdx.x); i < here * half; i += static_cast<int>(blockDim.x)) {
    const float angle = static_cast<float>(positions[first + i / half]) * frequencies[i % half];
    float s, c;
    sincosf(angle, &s, &c);
    cosine[i] = c;
    sine[i] = direction * s;
  }
  __syncthreads();

  const int chunks = (half + kChunk - 1) / kChunk;  // of half a head
  const int row_chunks = static_cast<int>(x.cols / (2 * half)) * chunks;
  for (int i = static_cast<int>(threadIdx.x); i < here * row_chunks; i += static_cast<int>(blockDim.x)) {
    const int t = i / row_chunks, head = i % row_chunks / chunks, begin = i % chunks * kChunk;
    char* row = row_of(x, first + t);
    const int64_t col = int64_t{head} * 2 * half + begin;
    const int count = half - begin;
    const Chunk low = load_chunk(row, x.type, col, count, aligned);
    const Chunk high = load_chunk(row, x.type, col + half, count, aligned);
    float a[kChunk], b[kChunk];
    to_floats(low, x.type, a);
    to_floats(high, x.type, b);
#pragma unroll
    for (int k = 0; k < kChunk; ++k) {
      if (k >= count) break;
      const float c = cosine[t * half + begin + k], s = sine[t * half + begin + k];
      const float left = a[k], right = b[k];
      a[k] = left * c - right * s;
      b[k] = right * c + left * s;
    }
    store_chunk(row, x.type, col, count, aligned, a);
    store_chunk(row, x.type, col + half, count, aligned, b);
  }
}

}  // namespace

void rope(View x, const int32_t* positions, const float* frequencies, int64_t head_dim, float direction,
          Stream stream) {
  if (empty(x) || head_dim < 2) return;
  const int half = static_cast<int>(head_dim / 2);
  const bool aligned = aligned_rows(x) && half * size_of(x.type) % 16 == 0;
  // Narrow rows (keys) share a block, so that its threads have two pairs of chunks each.
  const int64_t work = ceil_div(x.cols, 2 * kChunk);
  const int tokens = static_cast<int>(std::clamp<int64_t>(2 * kThreads / work, 1, 8));
  const auto shared = static_cast<unsigned>(tokens * half * 2 * static_cast<int>(sizeof(float)));
  rope_kernel<<<static_cast<unsigned>(ceil_div(x.rows, tokens)), kThreads, shared, stream>>>(
      x, positions, frequencies, half, direction, tokens, aligned);
  check_launch("rope", stream);
}

}  // namespace grinqh::cuda
