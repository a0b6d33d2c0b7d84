// Product of weights that lie channel by channel (input by input) with a few tokens: a channel that no token
// reads is not fetched. (Also read by device code: raw types only.)
#pragma once

#include "cuda/gemv_operands.h"
#include "cuda/grading.h"

namespace grinqh::cuda {

struct ChannelWeights {
  enum class Element : uint8_t { bf16, f16, codes8 };

  const void* data = nullptr;  // [in][stride], rows at multiples of 16 bytes
  Element element = Element::bf16;
  int64_t out = 0, in = 0, stride = 0;
  // Codes only: a weight is column_scale * (scale * (code - zero)), scale and zero of a group of inputs.
  int64_t group = 0;                        // a multiple of 8
  const uint16_t* scales = nullptr;         // float16 [groups][stride]
  const uint16_t* zeros = nullptr;          // float16 [groups][stride]; null: 128
  const uint16_t* column_scales = nullptr;  // float16 [in], or null
};

// Which channels a token reads: those with |x| above the threshold, or not a number.
struct ChannelReading {
  const float* thresholds = nullptr;  // [in], or [1] if shared; null: all channels
  bool shared = false;
};

// How the work is cut: tiles of outputs, slices of inputs.
struct ChannelShape {
  int tiles = 0, slices = 0;
  int64_t partial_floats(int64_t tokens) const;
};
ChannelShape channel_shape(int64_t out, int64_t in, int multiprocessors);

// y = x W^T of the channels read, 1 to 8 tokens. Where there are several slices the last block of a tile to
// come adds them up, in their order. partials: [partial_floats(tokens)]; arrivals: [tiles], zero, and left
// zero. Needs compute capability 9.0.
void channel_gemv(const ChannelWeights& weights, const ChannelShape& shape, const ChannelReading& reading,
                  const GemvInput& input, const GemvOutput& output, float* partials, int32_t* arrivals,
                  Stream stream);

}  // namespace grinqh::cuda
