// Layers whose weights lie channel by channel as decoding products: what their layouts' uploads share.
#pragma once

#include <vector>

#include "cuda/channel_gemv.h"
#include "cuda/gemv.h"

namespace grinqh::cuda {

// A layer's buffers in the order of ChannelWeights, on the host.
struct ChannelBuffers {
  std::vector<uint8_t> data;
  std::vector<uint16_t> scales, zeros, column_scales;  // empty: there are none
};

// weights: its shape; the pointers are set to copies of the buffers. Rules have the levels 0 and `full`. Null
// on a device that has no kernel (compute capability below 9.0).
std::unique_ptr<Gemv> make_channel_gemv(ChannelWeights weights, const ChannelBuffers& buffers, Level full,
                                        Stream stream);

// Outputs a row of `data` has room for.
constexpr int64_t channel_stride(int64_t out) { return (out + 15) / 16 * 16; }

}  // namespace grinqh::cuda
