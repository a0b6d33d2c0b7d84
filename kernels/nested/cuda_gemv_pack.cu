// Repacks the layout's buffers into the order of gemv_order.h.
#include "kernels/nested/cuda_gemv.h"

namespace grinqh::cuda {

namespace {

constexpr int kThreads = 256;

// A thread packs unit `unit` (2 bytes a bit) of 16 outputs of a plane's channel.
__global__ void __launch_bounds__(kThreads)
    pack_digits_kernel(const __grid_constant__ NestedSource source, const __grid_constant__ NestedOrder order,
                       int plane, uint8_t* digits) {
  const int64_t plane_bytes = (source.out + 7) / 8;
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int units = order.across * 8;  // of 16 outputs
  const int64_t channel = at / units, tile = blockIdx.y;
  const int part = static_cast<int>(at % units) / 8, g = static_cast<int>(at % 8);
  if (channel >= order.padded_in) return;
  // Bits of outputs 64 half + 8 g .. + 7 of the part.
  const auto bits_of = [&](int bit, int half) -> uint32_t {
    const int64_t byte = (tile * order.tile() + part * NestedOrder::kPart + half * 64) / 8 + g;
    if (channel >= source.in || byte >= plane_bytes) return 0;
    return source.planes[(int64_t{bit} * source.in + channel) * plane_bytes + byte];
  };
  uint8_t* row = digits + tile * order.tile_bytes() + order.plane_at(plane) +
                 channel * order.row_bytes(plane) + part * NestedOrder::kBitBytes * order.bits(plane);
  const int last = order.end[plane] - 1;
  if (order.bits(plane) == 2) {
    for (int half = 0; half < 2; ++half) {
      const uint32_t high = bits_of(last - 1, half), low = bits_of(last, half);
      uint32_t unit = 0;
      for (int i = 0; i < 8; ++i) unit |= ((high >> i & 1) << 1 | (low >> i & 1)) << 2 * i;
      reinterpret_cast<uint16_t*>(row + half * 16)[g] = static_cast<uint16_t>(unit);
    }
  } else {
    uint32_t unit = 0;
    for (int half = 0; half < 2; ++half) {
      const uint32_t bits = bits_of(last, half);
      for (int i = 0; i < 8; ++i) unit |= (bits >> i & 1) << (i / 4 * 8 + i % 4 * 2 + half);
    }
    reinterpret_cast<uint16_t*>(row)[g] = static_cast<uint16_t>(unit);
  }
}

__global__ void __launch_bounds__(kThreads)
    pack_grids_kernel(const __grid_constant__ NestedSource source, const __grid_constant__ NestedOrder order,
                      bool by_input, uint32_t* grids) {
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x, part = blockIdx.y;
  const int64_t count = by_input ? source.groups * NestedOrder::kPart : order.padded_in;
  if (at >= count) return;
  int64_t parameter = -1;
  if (by_input) {
    const int place = static_cast<int>(at % NestedOrder::kPart);
    const int64_t output = part * NestedOrder::kPart + place / 8 % 2 * 64 + place / 16 * 8 + place % 8;
    if (output < source.out) parameter = output * source.groups + at / NestedOrder::kPart;
  } else {
    const int64_t output = part * NestedOrder::kPart;
    if (output < source.out && at < source.in) parameter = at * source.groups + output / source.group;
  }
  grids[part * count + at] =
      parameter < 0 ? 0u : source.scales[parameter] | uint32_t{source.minima[parameter]} << 16;
}

unsigned blocks_for(int64_t threads) { return static_cast<unsigned>((threads + kThreads - 1) / kThreads); }

}  // namespace

void pack_nested_digits(const NestedSource& source, const NestedOrder& order, uint8_t* digits,
                        Stream stream) {
  const auto tiles = static_cast<unsigned>((source.out + order.tile() - 1) / order.tile());
  for (int plane = 0; plane < order.planes; ++plane) {
    pack_digits_kernel<<<dim3(blocks_for(int64_t{order.padded_in} * order.across * 8), tiles), kThreads, 0,
                         stream>>>(source, order, plane, digits);
    check_launch("pack_nested_digits", stream);
  }
}

void pack_nested_grids(const NestedSource& source, const NestedOrder& order, bool by_input, uint32_t* grids,
                       Stream stream) {
  const auto parts = static_cast<unsigned>((source.out + order.tile() - 1) / order.tile() * order.across);
  const int64_t count = by_input ? source.groups * NestedOrder::kPart : order.padded_in;
  pack_grids_kernel<<<dim3(blocks_for(count), parts), kThreads, 0, stream>>>(source, order, by_input, grids);
  check_launch("pack_nested_grids", stream);
}

}  // namespace grinqh::cuda
