#include "kernels/group_mixed/cuda.h"

#include "cuda/decode.cuh"

namespace grinqh::cuda {

namespace {

// A block of 32 x 8 threads; a thread decodes one chunk of columns in some rows.
constexpr int kLanes = 32, kWarps = 8, kRowsOfThread = 4;
constexpr int kTileCols = kLanes * kChunk, kTileRows = kWarps * kRowsOfThread;

// A group of one row: weights are scale * (factor * code - zero) + mean. Factor 2 and zero 1 make the signs
// of a group of one bit; scale * integer is exact, so that a fused sum has the same bits.
struct Group {
  float scale, zero, mean, factor;

  __device__ Group(const GroupMixedWeights& w, const MixedGroup& place, int64_t row, int64_t g)
      : scale(float_of_half(w.scales[row * w.groups + g])), zero(1), mean(0), factor(1) {
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

template <class T>
__global__ void __launch_bounds__(kLanes* kWarps)
    decode_rows(const __grid_constant__ GroupMixedWeights w, unsigned col_tiles, Rows<T> out) {
  const int64_t col = int64_t{blockIdx.x % col_tiles} * kTileCols + threadIdx.x * kChunk;
  const int64_t row0 = int64_t{blockIdx.x / col_tiles} * kTileRows + threadIdx.y;
  if (col >= w.in) return;
  const int count = static_cast<int>(min(int64_t{kChunk}, w.in - col));
  const int64_t g = static_cast<uint32_t>(col) / static_cast<uint32_t>(w.group);
  const bool one_group = col + count <= (g + 1) * w.group;
  const MixedGroup place = w.places[g];

#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    const int64_t row = row0 + r * kWarps;
    if (row >= w.out) return;
    const int64_t row_bit = row * w.code_row_bytes * 8;
    float values[kChunk];
    if (one_group) {
      const Group group(w, place, row, g);
      uint64_t codes = load_bits(w.codes, row_bit + place.code_bit + (col - g * w.group) * place.width,
                                 count * place.width);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        values[i] = group.decode(static_cast<uint32_t>(codes) & ((1u << place.width) - 1));
        codes >>= place.width;
      }
    } else {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        if (i >= count) continue;
        const int64_t own = static_cast<uint32_t>(col + i) / static_cast<uint32_t>(w.group);
        const MixedGroup at = w.places[own];
        const uint64_t code =
            load_bits(w.codes, row_bit + at.code_bit + (col + i - own * w.group) * at.width, at.width);
        values[i] = Group(w, at, row, own).decode(static_cast<uint32_t>(code) & ((1u << at.width) - 1));
      }
    }
    store_chunk(out, row, col, values);
  }
}

}  // namespace

void dequantize_group_mixed(const GroupMixedWeights& w, View out, Stream stream) {
  with_rows(out, [&]<class T>(const Rows<T>& rows) {
    const int64_t col_tiles = (w.in + kTileCols - 1) / kTileCols;
    const int64_t row_tiles = (w.out + kTileRows - 1) / kTileRows;
    decode_rows<<<static_cast<unsigned>(row_tiles * col_tiles), dim3(kLanes, kWarps), 0, stream>>>(
        w, static_cast<unsigned>(col_tiles), rows);
    check_launch("group_mixed decode_rows", stream);
  });
}

}  // namespace grinqh::cuda
