#include "kernels/aligned_2_4_16/cuda.h"

#include "cuda/decode.cuh"

namespace grinqh::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kGroup = 16, kBlockRows = 16;  // as Aligned2416Shape

// Half a group of one row. scale * (code - zero) is exact: 11 bits of the scale, 5 of a scale code and its
// zero, 5 of the difference.
struct HalfGroup {
  uint32_t codes;  // 8 of them, the first lowest
  int bits, zero;
  float scale;

  __device__ HalfGroup(const Aligned2416Weights& w, int64_t row, int64_t chunk) {
    const int64_t g = chunk / 2, half = chunk % 2;
    const int32_t place = w.places[g];
    const uint32_t word = w.codes[row * w.groups + g];
    if (place < 0) {
      const int64_t wide = ~place, at = row * w.wide_groups + wide;
      bits = 4;
      codes = half ? w.split[at] : word;
      scale = float_of_half(w.wide_scales[at]);
      zero = w.wide_zeros[wide * ((w.out + 1) / 2) + row / 2] >> (4 * (row % 2)) & 15;
      return;
    }
    bits = 2;
    codes = half ? word >> 16 : word;
    const int third = place % 3;
    const int first = w.first[row * ((w.narrow_groups + 2) / 3) + place / 3];
    const int code = first >> (6 + 3 * third) & (third == 2 ? 15 : 7);
    zero = first >> (2 * third) & 3;
    const int64_t block = row / kBlockRows;
    const int second_zero =
        w.second_zeros[block * ((w.narrow_groups + 3) / 4) + place / 4] >> (4 * (place % 4)) & 15;
    scale = float_of_half(w.second_scales[block * w.narrow_groups + place]) *
            static_cast<float>(code + second_zero);
  }

  __device__ float decode(int i) const {
    const int code = static_cast<int>(codes >> (bits * i)) & ((1 << bits) - 1);
    return scale * static_cast<float>(code - zero);
  }
};

// A block decodes a row.
template <class T>
__global__ void __launch_bounds__(kThreads)
    decode_rows(const __grid_constant__ Aligned2416Weights w, Rows<T> out) {
  static_assert(kGroup == 2 * kChunk);
  const int64_t row = blockIdx.x;
  for (int64_t chunk = threadIdx.x; chunk * kChunk < w.in; chunk += kThreads) {
    const HalfGroup group(w, row, chunk);
    float values[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) values[i] = group.decode(i);
    store_chunk(out, row, chunk * kChunk, values);
  }
  const uint32_t end = w.outlier_rows[row + 1];
  if (w.outlier_rows[row] == end) return;
  __syncthreads();  // sums with outliers replace what stands there
  for (uint32_t k = w.outlier_rows[row] + threadIdx.x; k < end; k += kThreads) {
    const int64_t column = w.outlier_columns[k];
    const HalfGroup group(w, row, column / kChunk);
    store(out.data + row * out.stride + column,
          group.decode(static_cast<int>(column % kChunk)) + float_of_half(w.outlier_values[k]));
  }
}

}  // namespace

void dequantize_aligned_2_4_16(const Aligned2416Weights& w, View out, Stream stream) {
  with_rows(out, [&]<class T>(const Rows<T>& rows) {
    decode_rows<<<static_cast<unsigned>(w.out), kThreads, 0, stream>>>(w, rows);
    check_launch("aligned_2_4_16 decode_rows", stream);
  });
}

}  // namespace grinqh::cuda
