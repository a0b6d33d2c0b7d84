#include "kernels/group_affine/cuda.h"

#include "cuda/decode.cuh"

namespace grinqh::cuda {

namespace {

// A block of 32 x 8 threads; a thread decodes one chunk of columns in some rows.
constexpr int kLanes = 32, kWarps = 8, kRowsOfThread = 4;
constexpr int kTileCols = kLanes * kChunk, kTileRows = kWarps * kRowsOfThread;

__device__ float zero_of(const GroupAffineWeights& w, int64_t row, int64_t group) {
  if (w.zeros == nullptr) return static_cast<float>(1 << (w.bits - 1));
  if (w.real_zeros) return float_of_half(reinterpret_cast<const uint16_t*>(w.zeros)[row * w.groups + group]);
  const uint64_t zero = load_bits(w.zeros, row * w.zero_row_bytes * 8 + group * w.bits, w.bits);
  return float_of_small(static_cast<uint32_t>(zero) & ((1u << w.bits) - 1));
}

template <class T>
__global__ void __launch_bounds__(kLanes* kWarps)
    decode_rows(const __grid_constant__ GroupAffineWeights w, unsigned col_tiles, Rows<T> out) {
  const int64_t col = int64_t{blockIdx.x % col_tiles} * kTileCols + threadIdx.x * kChunk;
  const int64_t row0 = int64_t{blockIdx.x / col_tiles} * kTileRows + threadIdx.y;
  if (col >= w.in) return;
  const int count = static_cast<int>(min(int64_t{kChunk}, w.in - col));
  const auto group_size = static_cast<uint32_t>(w.group);
  const uint32_t group = static_cast<uint32_t>(col) / group_size;
  const bool one_group = col + count <= int64_t{group + 1} * w.group;
  const uint32_t mask = (1u << w.bits) - 1;
  float column[kChunk];
#pragma unroll
  for (int i = 0; i < kChunk; ++i)
    column[i] = w.column_scales != nullptr && i < count ? float_of_half(w.column_scales[col + i]) : 1.0f;

#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    const int64_t row = row0 + r * kWarps;
    if (row >= w.out) return;
    uint64_t codes = load_bits(w.codes, row * w.code_row_bytes * 8 + col * w.bits, count * w.bits);
    float scale = float_of_half(w.scales[row * w.groups + group]), zero = zero_of(w, row, group);
    float values[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      if (!one_group && i < count) {
        const uint32_t own = static_cast<uint32_t>(col + i) / group_size;
        scale = float_of_half(w.scales[row * w.groups + own]);
        zero = zero_of(w, row, own);
      }
      // Three roundings one after another, none of which could be fused; a factor of 1 changes nothing.
      values[i] = scale * (float_of_small(static_cast<uint32_t>(codes) & mask) - zero) * column[i];
      codes >>= w.bits;
    }
    store_chunk(out, row, col, values);
  }
}

}  // namespace

void dequantize_group_affine(const GroupAffineWeights& w, View out, Stream stream) {
  with_rows(out, [&]<class T>(const Rows<T>& rows) {
    const int64_t col_tiles = (w.in + kTileCols - 1) / kTileCols;
    const int64_t row_tiles = (w.out + kTileRows - 1) / kTileRows;
    decode_rows<<<static_cast<unsigned>(row_tiles * col_tiles), dim3(kLanes, kWarps), 0, stream>>>(
        w, static_cast<unsigned>(col_tiles), rows);
    check_launch("group_affine decode_rows", stream);
  });
}

}  // namespace grinqh::cuda
