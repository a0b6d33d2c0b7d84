// Repacks the layout's buffers into the order of gemv_order.h.
#include "kernels/nested/cuda_gemv.h"

namespace grinqh::cuda {

namespace {

constexpr int kThreads = 256;

// A thread packs word `word` of a plane's channel: 2-bit digits of 16 outputs, or 1-bit digits of 32.
__global__ void __launch_bounds__(kThreads)
    pack_digits_kernel(const __grid_constant__ NestedSource source, const __grid_constant__ NestedOrder order,
                       int plane, uint8_t* digits) {
  const int64_t plane_bytes = (source.out + 7) / 8;
  const int bits = order.bits(plane), words = 8 * bits;
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x, channel = at / words, tile = blockIdx.y;
  const int word = static_cast<int>(at % words);
  if (channel >= order.padded_in) return;
  // Bit 8 h + g of a byte pair of the layout's plane: outputs 64 b + 16 d + 8 h + g of the tile.
  const auto bit_of = [&](int bit, int b, int d, int h, int g) -> uint32_t {
    const int64_t byte = (tile * NestedOrder::kTile + 64 * b + 16 * d + 8 * h) / 8;
    if (channel >= source.in || byte >= plane_bytes) return 0;
    return source.planes[(int64_t{bit} * source.in + channel) * plane_bytes + byte] >> g & 1u;
  };
  const int last = order.end[plane] - 1;
  uint32_t packed = 0;
  for (int b = 0; b < 4; ++b)
    for (int d = 0; d < 4; ++d) {
      uint32_t pair = 0;
      if (bits == 2) {
        const int g = word / 2, h = word % 2;
        pair = bit_of(last - 1, b, d, h, g) << 1 | bit_of(last, b, d, h, g);
      } else {
        pair = bit_of(last, b, d, 1, word) << 1 | bit_of(last, b, d, 0, word);
      }
      packed |= pair << (8 * b + 2 * d);
    }
  uint8_t* row =
      digits + tile * order.tile_bytes() + order.plane_at(plane) + channel * order.row_bytes(plane);
  reinterpret_cast<uint32_t*>(row)[word] = packed;
}

__global__ void __launch_bounds__(kThreads)
    pack_grids_kernel(const __grid_constant__ NestedSource source, const __grid_constant__ NestedOrder order,
                      int columns, uint32_t* grids) {
  constexpr int kTile = NestedOrder::kTile;
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x, tile = blockIdx.y;
  const int64_t count = columns == 0 ? source.groups * kTile : int64_t{order.padded_in} * columns;
  if (at >= count) return;
  int64_t parameter = -1;
  if (columns == 0) {
    // Of lane 4 g + 2 h + b / 2 its output 2 d + b % 2.
    const int lane = static_cast<int>(at % kTile) / 8, number = static_cast<int>(at % 8);
    const int64_t output =
        tile * kTile + 64 * (lane % 2 * 2 + number % 2) + 16 * (number / 2) + 8 * (lane / 2 % 2) + lane / 4;
    if (output < source.out) parameter = output * source.groups + at / kTile;
  } else {
    const int64_t channel = at / columns, output = tile * kTile + at % columns * (kTile / columns);
    if (output < source.out && channel < source.in)
      parameter = channel * source.groups + output / source.group;
  }
  grids[tile * count + at] =
      parameter < 0 ? 0u : source.scales[parameter] | uint32_t{source.minima[parameter]} << 16;
}

unsigned blocks_for(int64_t threads) { return static_cast<unsigned>((threads + kThreads - 1) / kThreads); }

}  // namespace

void pack_nested_digits(const NestedSource& source, const NestedOrder& order, uint8_t* digits,
                        Stream stream) {
  const auto tiles = static_cast<unsigned>((source.out + NestedOrder::kTile - 1) / NestedOrder::kTile);
  for (int plane = 0; plane < order.planes; ++plane) {
    const int64_t words = int64_t{order.padded_in} * 8 * order.bits(plane);
    pack_digits_kernel<<<dim3(blocks_for(words), tiles), kThreads, 0, stream>>>(source, order, plane, digits);
    check_launch("pack_nested_digits", stream);
  }
}

void pack_nested_grids(const NestedSource& source, const NestedOrder& order, int columns, uint32_t* grids,
                       Stream stream) {
  const auto tiles = static_cast<unsigned>((source.out + NestedOrder::kTile - 1) / NestedOrder::kTile);
  const int64_t count =
      columns == 0 ? source.groups * NestedOrder::kTile : int64_t{order.padded_in} * columns;
  pack_grids_kernel<<<dim3(blocks_for(count), tiles), kThreads, 0, stream>>>(source, order, columns, grids);
  check_launch("pack_nested_grids", stream);
}

}  // namespace grinqh::cuda
