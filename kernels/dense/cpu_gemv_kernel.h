// The arithmetic of the CPU's decoding kernel of "dense16", for raw memory in the order of cpu_order.h.
#pragma once

#include <cstdint>
#include <span>

namespace grinqh::dense {

// Channels that a token reads, ascending, and its inputs there.
struct ChannelInputs {
  std::span<const int32_t> channels;
  const float* x;  // [channels]
};

struct TileWeights {
  const uint16_t* channels;  // [in][width]
  int64_t width;
  bool bf16;
};

// y[output] += the channels' products, one after the other. y: [width].
void add_channels(const TileWeights& weights, const ChannelInputs& inputs, float* y);

}  // namespace grinqh::dense
