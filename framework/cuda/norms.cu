#include "cuda/elements.cuh"
#include "cuda/ops.h"

namespace grinqh::cuda {

namespace {

constexpr int kHeld = 4;  // chunks of a row that a thread keeps in registers between the two passes

__device__ void add_squares(const Chunk& chunk, Type type, float& sum) {
  float v[kChunk];
  to_floats(chunk, type, v);
#pragma unroll
  for (int i = 0; i < kChunk; ++i) sum = fmaf(v[i], v[i], sum);
}

// A block normalizes a row; what does not fit into registers is read twice.
__global__ void rms_norm_kernel(ConstView x, const float* weight, float eps, View out, bool aligned) {
  const int64_t t = blockIdx.x, step = int64_t{blockDim.x} * kChunk, begin = int64_t{threadIdx.x} * kChunk;
  const char* from = row_of(x, t);
  char* to = row_of(out, t);
  Chunk held[kHeld];
#pragma unroll
  for (int k = 0; k < kHeld; ++k) {
    const int64_t col = begin + k * step;
    held[k] = col < x.cols ? load_chunk(from, x.type, col, x.cols - col, aligned) : Chunk{};
  }
  float sum = 0;
#pragma unroll
  for (int k = 0; k < kHeld; ++k) add_squares(held[k], x.type, sum);
  for (int64_t col = begin + kHeld * step; col < x.cols; col += step)
    add_squares(load_chunk(from, x.type, col, x.cols - col, aligned), x.type, sum);
  const float scale = 1.0f / sqrtf(block_sum(sum) / static_cast<float>(x.cols) + eps);

  const auto finish = [&](const Chunk& chunk, int64_t col) {
    float v[kChunk], w[kChunk];
    to_floats(chunk, x.type, v);
    to_floats(load_chunk(reinterpret_cast<const char*>(weight), Type::f32, col, x.cols - col, aligned),
              Type::f32, w);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) v[i] = v[i] * scale * w[i];
    store_chunk(to, out.type, col, x.cols - col, aligned, v);
  };
#pragma unroll
  for (int k = 0; k < kHeld; ++k)
    if (begin + k * step < x.cols) finish(held[k], begin + k * step);
  for (int64_t col = begin + kHeld * step; col < x.cols; col += step)
    finish(load_chunk(from, x.type, col, x.cols - col, aligned), col);
}

// `lanes` neighbours (a power of two up to 32) normalize a head; threads x are lanes of a row's heads, y goes
// over rows. Head dimensions above 256 are gone through in steps.
__global__ void rms_norm_heads_kernel(View x, const float* weight, int head_dim, float eps, int lanes,
                                      bool aligned) {
  const int64_t at = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int begin = static_cast<int>(at % lanes) * kChunk, step = lanes * kChunk;
  const int64_t head = at / lanes * head_dim;
  const bool active = head < x.cols;  // whole warps go on: lane_sum needs all lanes
  const auto* weights = reinterpret_cast<const char*>(weight);
  const int64_t rows_step = int64_t{gridDim.y} * blockDim.y;
  for (int64_t t = int64_t{blockIdx.y} * blockDim.y + threadIdx.y; t < x.rows; t += rows_step) {
    char* row = row_of(x, t);
    Chunk held{}, scaling{};
    if (active && begin < head_dim) {
      held = load_chunk(row, x.type, head + begin, head_dim - begin, aligned);
      scaling = load_chunk(weights, Type::f32, begin, head_dim - begin, aligned);
    }
    float sum = 0;
    add_squares(held, x.type, sum);
    for (int i = begin + step; active && i < head_dim; i += step)
      add_squares(load_chunk(row, x.type, head + i, head_dim - i, aligned), x.type, sum);
    const float scale = 1.0f / sqrtf(lane_sum(sum, lanes) / static_cast<float>(head_dim) + eps);
    for (int i = begin; active && i < head_dim; i += step) {
      if (i > begin) {
        held = load_chunk(row, x.type, head + i, head_dim - i, aligned);
        scaling = load_chunk(weights, Type::f32, i, head_dim - i, aligned);
      }
      float v[kChunk], w[kChunk];
      to_floats(held, x.type, v);
      to_floats(scaling, Type::f32, w);
#pragma unroll
      for (int k = 0; k < kChunk; ++k) v[k] = v[k] * scale * w[k];
      store_chunk(row, x.type, head + i, head_dim - i, aligned, v);
    }
  }
}

}  // namespace

void rms_norm(ConstView x, const float* weight, float eps, View out, Stream stream) {
  if (empty(x)) return;
  const bool aligned = aligned_rows(x) && aligned_rows(out) && reinterpret_cast<uintptr_t>(weight) % 16 == 0;
  // Two chunks a thread keep enough loads in flight; more threads only where a row would not be held.
  const int64_t chunks = ceil_div(x.cols, kChunk);
  const int64_t threads = std::clamp<int64_t>(ceil_div(ceil_div(chunks, 2), 32) * 32, 32,
                                              chunks > int64_t{512} * kHeld ? 1024 : 512);
  rms_norm_kernel<<<static_cast<unsigned>(x.rows), static_cast<unsigned>(threads), 0, stream>>>(
      x, weight, eps, out, aligned);
  check_launch("rms_norm", stream);
}

void rms_norm_heads(View x, const float* weight, int64_t head_dim, float eps, Stream stream) {
  if (empty(x)) return;
  int lanes = 1;
  while (lanes < 32 && lanes * kChunk < head_dim) lanes *= 2;
  const bool aligned = aligned_rows(x) && head_dim * size_of(x.type) % 16 == 0 &&
                       reinterpret_cast<uintptr_t>(weight) % 16 == 0;
  const Tiling tiling = chunk_tiling(x.rows, std::max<int64_t>(x.cols / head_dim * lanes, 32) * kChunk);
  rms_norm_heads_kernel<<<tiling.grid, tiling.block, 0, stream>>>(x, weight, static_cast<int>(head_dim), eps,
                                                                  lanes, aligned);
  check_launch("rms_norm_heads", stream);
}

}  // namespace grinqh::cuda
