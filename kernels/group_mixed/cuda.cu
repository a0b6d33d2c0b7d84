#include "kernels/group_mixed/cuda.h"

#include "cuda/decode.cuh"

namespace grinqh::cuda {

namespace {

// A group of one row: weights are scale * (factor * code - zero) + mean. Factor 2 and zero 1 make the signs
// of a group of one bit; scale * integer is exact, so that a fused sum has the same bits.
struct Group {
  float scale = 0, zero = 1, mean = -0.0f, factor = 1;  // -0 + x is x, be it -0

  Group() = default;
  __device__ Group(const GroupMixedWeights& w, const MixedGroup& place, int64_t row, int64_t g)
      : scale(float_of_half(w.scales[row * w.groups + g])) {
    if (place.width == 1) {
      mean = float_of_half(w.means[row * w.binary_groups + place.parameter]);
      factor = 2;
    } else {
      const uint64_t bits = load_bits(w.zeros, row * w.zero_row_bytes * 8 + place.parameter, place.width);
      zero = float_of_small(static_cast<uint32_t>(bits) & ((1u << place.width) - 1));
    }
  }
  __device__ float decode(uint32_t code) const {
    return mean + scale * (factor * float_of_small(code) - zero);
  }
};

// A block of 32 x 8 threads decodes a tile; a thread one chunk of columns in some rows.
constexpr int kLanes = 32, kWarps = 8, kRowsOfThread = 4;
constexpr int kTileCols = kLanes * kChunk, kTileRows = kWarps * kRowsOfThread;

// Chunks lie within groups.
template <class T>
__global__ void __launch_bounds__(kLanes* kWarps)
    decode_chunks(const __grid_constant__ GroupMixedWeights w, unsigned col_tiles, Rows<T> out) {
  const int64_t col = int64_t{blockIdx.x % col_tiles} * kTileCols + threadIdx.x * kChunk;
  const int64_t row0 = int64_t{blockIdx.x / col_tiles} * kTileRows + threadIdx.y;
  if (col >= w.in || row0 >= w.out) return;
  const int64_t g = static_cast<uint32_t>(col) / static_cast<uint32_t>(w.group);
  const MixedGroup place = w.places[g];
  const int64_t bit = place.code_bit + (col - g * w.group) * place.width;
  const int count = static_cast<int>(min(int64_t{kChunk}, w.in - col)) * place.width;

  // All loads come before the first store, which they could not pass.
  uint64_t codes[kRowsOfThread] = {};
  Group groups[kRowsOfThread] = {};
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    const int64_t row = row0 + r * kWarps;
    if (row >= w.out) break;
    codes[r] = load_bits(w.codes, row * w.code_row_bytes * 8 + bit, count);
    groups[r] = Group(w, place, row, g);
  }
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    const int64_t row = row0 + r * kWarps;
    if (row >= w.out) return;
    float values[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i)
      values[i] =
          groups[r].decode(static_cast<uint32_t>(codes[r] >> (i * place.width)) & ((1u << place.width) - 1));
    store_chunk(out, row, col, values);
  }
}

// Groups of any size, a weight a thread.
template <class T>
__global__ void decode_each(const __grid_constant__ GroupMixedWeights w, Rows<T> out) {
  const int64_t row = blockIdx.x;
  for (int64_t col = threadIdx.x; col < w.in; col += blockDim.x) {
    const int64_t g = static_cast<uint32_t>(col) / static_cast<uint32_t>(w.group);
    const MixedGroup place = w.places[g];
    const int64_t bit = row * w.code_row_bytes * 8 + place.code_bit + (col - g * w.group) * place.width;
    const uint64_t code = load_bits(w.codes, bit, place.width);
    store(out.data + row * out.stride + col,
          Group(w, place, row, g).decode(static_cast<uint32_t>(code) & ((1u << place.width) - 1)));
  }
}

}  // namespace

void dequantize_group_mixed(const GroupMixedWeights& w, View out, Stream stream) {
  with_rows(out, [&]<class T>(const Rows<T>& rows) {
    if (w.groups > 1 && w.group % kChunk != 0) {
      decode_each<<<static_cast<unsigned>(w.out), 256, 0, stream>>>(w, rows);
      return check_launch("group_mixed decode_each", stream);
    }
    const int64_t col_tiles = (w.in + kTileCols - 1) / kTileCols;
    const int64_t row_tiles = (w.out + kTileRows - 1) / kTileRows;
    decode_chunks<<<static_cast<unsigned>(row_tiles * col_tiles), dim3(kLanes, kWarps), 0, stream>>>(
        w, static_cast<unsigned>(col_tiles), rows);
    check_launch("group_mixed decode_chunks", stream);
  });
}

}  // namespace grinqh::cuda
