#include "kernels/group_affine/cuda.h"

#include "cuda/decode.cuh"

namespace grinqh::cuda {

namespace {

__device__ float zero_of(const GroupAffineWeights& w, int64_t row, int64_t group) {
  if (w.zeros == nullptr) return static_cast<float>(1 << (w.bits - 1));
  if (w.real_zeros) return float_of_half(reinterpret_cast<const uint16_t*>(w.zeros)[row * w.groups + group]);
  const int64_t bit = group * w.bits;
  const uint8_t* bytes = w.zeros + row * w.zero_row_bytes + bit / 8;
  return float_of_small((bytes[0] | static_cast<uint32_t>(bytes[1]) << 8) >> (bit % 8) &
                        ((1u << w.bits) - 1));
}

// A block of 32 x 8 threads decodes a tile; a thread one chunk of columns in rows that lie kWarps apart, so
// that their codes begin at the same byte of a word.
constexpr int kLanes = 32, kWarps = 8;
constexpr int kTileCols = kLanes * kChunk;
// Columns' scales are worth more rows, measured on an H100.
constexpr int rows_of_thread(bool plain) { return plain ? 2 : 4; }

// Chunks lie within groups. kPlain: zero points are integers and columns have no scales.
template <class T, int kBits, bool kPlain>
__global__ void __launch_bounds__(kLanes* kWarps)
    decode_chunks(const __grid_constant__ GroupAffineWeights w, unsigned col_tiles, Rows<T> out) {
  const int64_t col = int64_t{blockIdx.x % col_tiles} * kTileCols + threadIdx.x * kChunk;
  constexpr int kRowsOfThread = rows_of_thread(kPlain);
  const int64_t row0 = int64_t{blockIdx.x / col_tiles} * (kWarps * kRowsOfThread) + threadIdx.y;
  if (col >= w.in || row0 >= w.out) return;
  const uint32_t group = static_cast<uint32_t>(col) / static_cast<uint32_t>(w.group);
  const int64_t first_byte = row0 * w.code_row_bytes + col / kChunk * kBits;
  const int shift = static_cast<int>(first_byte % 4) * 8;
  const uint8_t* code_word = w.codes + (first_byte - first_byte % 4);

  // All loads come before the first store, which they could not pass.
  uint32_t words[kRowsOfThread][3] = {};
  float scales[kRowsOfThread] = {}, zeros[kRowsOfThread] = {}, columns[kPlain ? 1 : kChunk];
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    const int64_t row = row0 + r * kWarps;
    if (row >= w.out) break;
    const auto* from = reinterpret_cast<const uint32_t*>(code_word + r * kWarps * w.code_row_bytes);
    words[r][0] = from[0];
    words[r][1] = from[1];
    if (kBits > 5) words[r][2] = from[2];
    scales[r] = float_of_half(w.scales[row * w.groups + group]);
    zeros[r] = zero_of(w, row, group);
  }
  if constexpr (!kPlain) {
#pragma unroll
    for (int i = 0; i < kChunk; ++i)
      columns[i] =
          w.column_scales != nullptr && col + i < w.in ? float_of_half(w.column_scales[col + i]) : 1.0f;
  }

#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    const int64_t row = row0 + r * kWarps;
    if (row >= w.out) return;
    const uint32_t low = __funnelshift_r(words[r][0], words[r][1], shift);
    const uint32_t high = __funnelshift_r(words[r][1], words[r][2], shift);
    float values[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const int bit = i * kBits;
      const uint32_t window = bit >= 32          ? high >> (bit - 32)
                              : bit + kBits > 32 ? __funnelshift_r(low, high, bit)
                                                 : low >> bit;
      const float code = shifted_float(window & ((1u << kBits) - 1));
      // Roundings one after another, none of which could be fused; a factor of 1 changes nothing.
      if constexpr (kPlain)
        values[i] = scales[r] * (code - (kShift + zeros[r]));
      else
        values[i] = scales[r] * (code - kShift - zeros[r]) * columns[i];
    }
    store_chunk(out, row, col, values);
  }
}

// Groups of any size, a weight a thread.
template <class T>
__global__ void decode_each(const __grid_constant__ GroupAffineWeights w, Rows<T> out) {
  const int64_t row = blockIdx.x;
  for (int64_t col = threadIdx.x; col < w.in; col += blockDim.x) {
    const int64_t group = static_cast<uint32_t>(col) / static_cast<uint32_t>(w.group);
    const uint64_t code = load_bits(w.codes, row * w.code_row_bytes * 8 + col * w.bits, w.bits);
    const float column = w.column_scales != nullptr ? float_of_half(w.column_scales[col]) : 1.0f;
    const float step =
        float_of_small(static_cast<uint32_t>(code) & ((1u << w.bits) - 1)) - zero_of(w, row, group);
    store(out.data + row * out.stride + col, float_of_half(w.scales[row * w.groups + group]) * step * column);
  }
}

template <class T, int kBits>
void launch(const GroupAffineWeights& w, const Rows<T>& out, Stream stream) {
  const int64_t col_tiles = (w.in + kTileCols - 1) / kTileCols;
  const bool plain = !w.real_zeros && w.column_scales == nullptr;
  const int64_t tile_rows = kWarps * rows_of_thread(plain);
  const int64_t row_tiles = (w.out + tile_rows - 1) / tile_rows;
  const auto kernel = plain ? decode_chunks<T, kBits, true> : decode_chunks<T, kBits, false>;
  kernel<<<static_cast<unsigned>(row_tiles * col_tiles), dim3(kLanes, kWarps), 0, stream>>>(
      w, static_cast<unsigned>(col_tiles), out);
  check_launch("group_affine decode_chunks", stream);
}

}  // namespace

void dequantize_group_affine(const GroupAffineWeights& w, View out, Stream stream) {
  with_rows(out, [&]<class T>(const Rows<T>& rows) {
    if (w.groups > 1 && w.group % kChunk != 0) {
      decode_each<<<static_cast<unsigned>(w.out), 256, 0, stream>>>(w, rows);
      return check_launch("group_affine decode_each", stream);
    }
    switch (w.bits) {
      case 2:
        return launch<T, 2>(w, rows, stream);
      case 3:
        return launch<T, 3>(w, rows, stream);
      case 4:
        return launch<T, 4>(w, rows, stream);
      case 5:
        return launch<T, 5>(w, rows, stream);
      case 6:
        return launch<T, 6>(w, rows, stream);
      case 7:
        return launch<T, 7>(w, rows, stream);
      default:
        return launch<T, 8>(w, rows, stream);
    }
  });
}

}  // namespace grinqh::cuda
