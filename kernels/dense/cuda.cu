#include "kernels/dense/cuda.h"

#include "cuda/decode.cuh"

namespace grinqh::cuda {

namespace {

// A block turns a tile of 64 channels by 64 rows through shared memory.
constexpr int kTile = 64, kThreads = 256;
constexpr int kChunks = kTile / kChunk;

template <class T, bool kBf16>
__global__ void __launch_bounds__(kThreads)
    transpose_tiles(const uint16_t* weights, unsigned col_tiles, Rows<T> out) {
  // Two rows' halves share a word; the odd number of words a channel spreads channels over the banks.
  __shared__ uint16_t tile[kTile][kTile + 2];
  const int64_t first_channel = int64_t{blockIdx.x % col_tiles} * kTile;
  const int64_t first_row = int64_t{blockIdx.x / col_tiles} * kTile;
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kTile; i += kThreads) {
    const int64_t channel = first_channel + i / kTile, row = first_row + i % kTile;
    if (channel < out.cols && row < out.rows) tile[i / kTile][i % kTile] = weights[channel * out.rows + row];
  }
  __syncthreads();
  const int chunk = static_cast<int>(threadIdx.x) % kChunks;
  const int64_t channel = first_channel + chunk * kChunk;
  if (channel >= out.cols) return;
  for (int r = static_cast<int>(threadIdx.x) / kChunks; r < kTile; r += kThreads / kChunks) {
    if (first_row + r >= out.rows) return;
    float values[kChunk];
#pragma unroll
    for (int c = 0; c < kChunk; ++c) {
      const uint16_t bits = channel + c < out.cols ? tile[chunk * kChunk + c][r] : uint16_t{0};
      values[c] = kBf16 ? __uint_as_float(static_cast<uint32_t>(bits) << 16) : float_of_half(bits);
    }
    store_chunk(out, first_row + r, channel, values);
  }
}

}  // namespace

void dequantize_dense(const uint16_t* weights, bool bf16, View out, Stream stream) {
  with_rows(out, [&]<class T>(const Rows<T>& rows) {
    const int64_t col_tiles = (rows.cols + kTile - 1) / kTile, row_tiles = (rows.rows + kTile - 1) / kTile;
    const auto kernel = bf16 ? transpose_tiles<T, true> : transpose_tiles<T, false>;
    kernel<<<static_cast<unsigned>(row_tiles * col_tiles), kThreads, 0, stream>>>(
        weights, static_cast<unsigned>(col_tiles), rows);
    check_launch("dense16 transpose_tiles", stream);
  });
}

}  // namespace grinqh::cuda
