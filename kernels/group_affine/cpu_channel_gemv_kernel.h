// The arithmetic of the CPU's decoding kernel for 8-bit codes by channels, for raw memory in the order of
// cpu_channel_order.h.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/group_affine/cpu_channel_order.h"

namespace grinqh::group_affine {

// Channels of one span that a token reads, ascending, and those that it reads after them.
struct SpanInputs {
  std::span<const int32_t> channels;
  int64_t following;  // channels behind the end of `channels`
  const float* x;     // [channels]
  float sum;          // of x
};

struct SpanWeights {
  const uint8_t* channels;  // the tile's, [in][width]
  const uint16_t* scales;   // float16, [width]
  const uint8_t* zeros;     // as `kind` says, [width]
  Zeros kind;
  int64_t width;
};

// y[output] += scale * (sum of x code - zero * sum of x). y: [width].
void add_span(const SpanWeights& weights, const SpanInputs& inputs, float* y);

}  // namespace grinqh::group_affine
