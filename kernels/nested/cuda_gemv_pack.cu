// Repacks the layout's buffers into the order of cuda_gemv.h.
#include "kernels/nested/cuda_gemv.h"

namespace grinqh::cuda {

namespace {

constexpr int kThreads = 256;

// Bit i to bit 2 i.
__device__ uint32_t spread(uint32_t bits) {
  bits = (bits | bits << 8) & 0x00ff00ffu;
  bits = (bits | bits << 4) & 0x0f0f0f0fu;
  bits = (bits | bits << 2) & 0x33333333u;
  return (bits | bits << 1) & 0x55555555u;
}

// A thread packs 16 outputs of a plane's channel.
__global__ void __launch_bounds__(kThreads)
    pack_digits_kernel(const uint8_t* from, const __grid_constant__ NestedGemvWeights weights,
                       uint8_t* digits) {
  const int64_t plane_bytes = (weights.out + 7) / 8;
  const int words = weights.tile / 16, plane = static_cast<int>(blockIdx.y),
            tile = static_cast<int>(blockIdx.z);
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x, channel = i / words;
  const int word = static_cast<int>(i % words);
  if (channel >= weights.in) return;
  const auto bits = [&](int bit) {
    const int64_t byte = int64_t{tile} * (weights.tile / 8) + 2 * word;
    const uint8_t* row = from + (int64_t{bit} * weights.in + channel) * plane_bytes;
    const uint32_t low = byte < plane_bytes ? row[byte] : 0u,
                   high = byte + 1 < plane_bytes ? row[byte + 1] : 0u;
    return low | high << 8;
  };
  uint8_t* to = digits + int64_t{tile} * weights.tile_bytes + weights.planes.offset[plane];
  const int end = weights.planes.end[plane];
  if (plane < weights.planes.pairs) {
    reinterpret_cast<uint32_t*>(to)[i] = spread(bits(end - 1)) | spread(bits(end - 2)) << 1;
  } else {
    const uint32_t b = bits(end - 1);
    const auto byte = [](uint32_t eight) { return spread(eight & 15u) | spread(eight >> 4) << 1; };
    reinterpret_cast<uint16_t*>(to)[i] = static_cast<uint16_t>(byte(b & 255u) | byte(b >> 8) << 8);
  }
}

__global__ void __launch_bounds__(kThreads)
    pack_grids_kernel(const uint16_t* scales, const uint16_t* minima,
                      const __grid_constant__ NestedGemvWeights weights, int64_t layout_group,
                      int64_t layout_groups, uint32_t* grids) {
  const int64_t width = weights.by_input ? weights.tile : weights.groups;  // innermost
  const int64_t height = weights.by_input ? weights.groups : weights.in;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= width * height * weights.tiles) return;
  const int64_t inner = i % width, outer = i / width % height, tile = i / (width * height);
  const int64_t output = tile * weights.tile + (weights.by_input ? inner : inner * weights.part);
  uint32_t grid = 0;
  if (output < weights.out) {
    const int64_t at =
        weights.by_input ? output * layout_groups + outer : outer * layout_groups + output / layout_group;
    grid = scales[at] | uint32_t{minima[at]} << 16;
  }
  grids[i] = grid;
}

unsigned blocks_for(int64_t threads) { return static_cast<unsigned>((threads + kThreads - 1) / kThreads); }

}  // namespace

void pack_nested_digits(const uint8_t* planes, const NestedGemvWeights& weights, uint8_t* digits,
                        Stream stream) {
  const dim3 grid(blocks_for(int64_t{weights.in} * (weights.tile / 16)),
                  static_cast<unsigned>(weights.planes.count), static_cast<unsigned>(weights.tiles));
  pack_digits_kernel<<<grid, kThreads, 0, stream>>>(planes, weights, digits);
  check_launch("pack_nested_digits", stream);
}

void pack_nested_grids(const uint16_t* scales, const uint16_t* minima, const NestedGemvWeights& weights,
                       int64_t layout_group, int64_t layout_groups, uint32_t* grids, Stream stream) {
  const int64_t count = int64_t{weights.tiles} * (weights.by_input ? int64_t{weights.groups} * weights.tile
                                                                   : int64_t{weights.in} * weights.groups);
  pack_grids_kernel<<<blocks_for(count), kThreads, 0, stream>>>(scales, minima, weights, layout_group,
                                                                layout_groups, grids);
  check_launch("pack_nested_grids", stream);
}

}  // namespace grinqh::cuda
