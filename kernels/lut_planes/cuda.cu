#include "kernels/lut_planes/cuda.h"

#include "cuda/decode.cuh"

namespace grinqh::cuda {

namespace {

constexpr int kThreads = 256;

__device__ void load_table(LutLevel level, int64_t row, float* table) {
  for (int t = static_cast<int>(threadIdx.x); t < 1 << level.bits; t += kThreads)
    table[t] = float_of_half(level.tables[(row << level.bits) + t]);
}

// A block decodes a row, of which it holds the tables.
template <class T, bool kDifference>
__global__ void __launch_bounds__(kThreads)
    decode_rows(const __grid_constant__ LutPlanesWeights w, LutLevel level, LutLevel minus, Rows<T> out) {
  __shared__ float table[256], less[kDifference ? 256 : 1];
  const int64_t row = blockIdx.x;
  load_table(level, row, table);
  if (kDifference) load_table(minus, row, less);
  __syncthreads();

  const int64_t row_bytes = (w.in + 31) / 32 * 4, plane_bytes = w.out * row_bytes;
  const auto* planes = reinterpret_cast<const uint8_t*>(w.planes) + row * row_bytes;
  for (int64_t col = int64_t{threadIdx.x} * kChunk; col < w.in; col += kThreads * kChunk) {
    uint32_t bits[8];
#pragma unroll
    for (int plane = 0; plane < 8; ++plane)
      bits[plane] = plane < level.bits ? planes[plane * plane_bytes + col / 8] : 0;
    float values[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      uint32_t code = 0;
#pragma unroll
      for (int plane = 0; plane < 8; ++plane)
        if (plane < level.bits) code = code << 1 | (bits[plane] >> i & 1);
      values[i] = table[code];
      if (kDifference) values[i] -= less[code >> (level.bits - minus.bits)];
    }
    store_chunk(out, row, col, values);
  }

  if (w.outlier_rows == nullptr) return;
  __syncthreads();  // outliers replace what stands there
  for (uint32_t k = w.outlier_rows[row] + threadIdx.x; k < w.outlier_rows[row + 1]; k += kThreads) {
    const uint32_t column = w.wide_columns ? static_cast<const uint32_t*>(w.outlier_columns)[k]
                                           : static_cast<const uint16_t*>(w.outlier_columns)[k];
    // They have one value at all levels.
    store(out.data + row * out.stride + column, kDifference ? 0.0f : float_of_half(w.outlier_values[k]));
  }
}

}  // namespace

void dequantize_lut_planes(const LutPlanesWeights& w, LutLevel level, LutLevel minus, View out,
                           Stream stream) {
  with_rows(out, [&]<class T>(const Rows<T>& rows) {
    const auto kernel = minus.bits > 0 ? decode_rows<T, true> : decode_rows<T, false>;
    kernel<<<static_cast<unsigned>(w.out), kThreads, 0, stream>>>(w, level, minus, rows);
    check_launch("lut_planes decode_rows", stream);
  });
}

}  // namespace grinqh::cuda
