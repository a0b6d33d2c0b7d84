// Inputs as 16-bit integers, as the high and the low byte that the tensor cores multiply by; and what does
// not depend on the digits: sums for the minima and for the middles of cells.
#pragma once

#include "kernels/nested/gemv_channels.cuh"

namespace grinqh::cuda::nested {

constexpr float kMost = 32512.0f;  // the high byte of 32512 + 128 is still 127

// Of a round and this lane's column (token, or group along the inputs).
struct Factors {
  float unit = 0;  // that an integer stands for
  // Sums of x, and of x times half a cell; along the outputs with scales and minima, and the second alone.
  float inputs = 0, middles = 0;
};

__device__ inline float scale_of(uint32_t grid) { return float_of_half(static_cast<uint16_t>(grid)); }
__device__ inline float minimum_of(uint32_t grid) { return float_of_half(static_cast<uint16_t>(grid >> 16)); }

// Along the outputs: grids of eight channels for this warp's outputs.
struct ChannelGrids {
  uint32_t of[8];

  __device__ void load(const Problem& p, const Span& span, int channel) {
    const uint32_t* from =
        p.w.grids + (int64_t{span.tile} * p.w.order.across + span.part) * p.w.order.padded_in + channel;
    const uint4 low = __ldg(reinterpret_cast<const uint4*>(from)),
                high = __ldg(reinterpret_cast<const uint4*>(from) + 1);
    of[0] = low.x, of[1] = low.y, of[2] = low.z, of[3] = low.w;
    of[4] = high.x, of[5] = high.y, of[6] = high.z, of[7] = high.w;
  }
};

__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int other = 16; other > 0; other /= 2) value += __shfl_xor_sync(0xffffffffu, value, other);
  return value;
}

// Bytes of channels 8 item .. 8 item + 7. Within a block of 32 channels the byte of channel 8 o + 2 t + e
// lies at 8 t + 2 o + e, where lane t of a column reads its eight.
__device__ inline void store_bytes(const float (&x)[8], float inverse, int item, uint8_t* high,
                                   uint8_t* low) {
  const int at = item / 4 * NestedOrder::kBlock + item % 4 * 2;
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    // 1.5 2^23 + x rounds to integers, whose lowest bits are those of the mantissa.
    const uint32_t first = __float_as_uint(fmaf(x[2 * t], inverse, 12582912.0f)),
                   second = __float_as_uint(fmaf(x[2 * t + 1], inverse, 12582912.0f));
    *reinterpret_cast<uint16_t*>(low + at + 8 * t) =
        static_cast<uint16_t>(__byte_perm(first, second, 0x0040));
    *reinterpret_cast<uint16_t*>(high + at + 8 * t) =
        static_cast<uint16_t>(__byte_perm(first + 128, second + 128, 0x0051));
  }
}

// All lanes of a warp; x of token t and half a cell of each, for channels 8 lane .. of the round, zeros
// beyond its end. to: [tokens] [high, low][256].
template <class S>
__device__ inline void quantize(const Problem& p, const Span& span, int t, float (&x)[8],
                                const float (&half)[8], const ChannelGrids& grids, uint8_t* to,
                                Factors& mine) {
  const int lane = threadIdx.x % 32, column = lane % 4, channel = span.begin + lane * 8;
  uint32_t most = 0;  // of |x| as bits: what is no number is more than any
  float inputs = 0, middles = 0;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    float& value = x[k];
    value = half[k] != 0 ? value : 0.0f;
    if constexpr (S::kByInput) {
      inputs += value;
      middles = fmaf(value, half[k], middles);
    } else {
      const float scale = scale_of(grids.of[k]);
      middles = fmaf(value, fmaf(scale, half[k], minimum_of(grids.of[k])), middles);
      value *= scale;
    }
    most = max(most, __float_as_uint(fabsf(value)));
  }
  const float largest = __uint_as_float(__reduce_max_sync(0xffffffffu, most));
  const float inverse = largest > 1e-30f ? __fdividef(kMost, largest) : 0.0f;
  uint8_t* high = to + t * 2 * kRound;
  store_bytes(x, inverse, lane, high, high + kRound);
  if (S::kTokens == 1 || column == t) mine.unit = largest * (1.0f / kMost);
#pragma unroll
  for (int g = 0; g < S::kGroups; ++g) {
    const bool counts = S::kGroups == 1 || channel / max(p.w.group, 1) - span.begin / max(p.w.group, 1) == g;
    const float all_middles = warp_sum(counts ? middles : 0.0f);
    const float all_inputs = S::kByInput ? warp_sum(counts ? inputs : 0.0f) : 0.0f;
    if (column == (S::kTokens == 1 ? g : t) || (S::kGroups == 1 && S::kTokens == 1)) {
      mine.middles = all_middles;
      mine.inputs = all_inputs;
    }
  }
}

}  // namespace grinqh::cuda::nested
