// The product of one chunk of gemv_order.h with inputs as integers (gemv_inputs.cuh).
//
// One token: every product has the bytes of all four groups in its eight columns, of which those of its own
// group, 2 q and 2 q + 1, are used: lane 4 g + q takes the sums of group q, and every lane scales one group.
// Several tokens: token t has columns 2 t and 2 t + 1.
#pragma once

#include "cuda/byte_products.cuh"
#include "cuda/decode.cuh"
#include "cuda/with_bits.cuh"
#include "kernels/group_mixed/gemv_codes.cuh"

namespace grinqh::cuda {

// kSets: of four tokens; 0: a single one.
template <int kSets>
constexpr int kColumnsOf = kSets < 2 ? 1 : kSets;  // B operands of a product

// A chunk's inputs.
template <int kSets>
struct ChunkInputs {
  const uint8_t* b[kColumnsOf<kSets>];  // this lane's columns of step 0, group 0
  const float2* groups;                 // of the first token: what an integer is worth, and their sum
  int tokens, groups_of_token;

  __device__ int group_bytes() const { return kSets == 0 ? 0 : tokens * 64; }
  __device__ int step_bytes() const { return (kSets == 0 ? 1 : tokens) * 256; }
  __device__ float2 of(int set, int group) const {
    if constexpr (kSets == 0) return groups[group];
    const int token = min(set * 4 + static_cast<int>(threadIdx.x % 4), tokens - 1);
    return groups[token * groups_of_token + group];
  }
};

__device__ inline float2 floats_of(uint32_t halves) {
  return make_float2(float_of_half(static_cast<uint16_t>(halves)),
                     float_of_half(static_cast<uint16_t>(halves >> 16)));
}

// Zero points of outputs g and g + 8, entry 4 g + q of a block's.
template <int kBits>
__device__ inline float2 zeros_at(const uint8_t* zeros, int entry) {
  constexpr uint32_t kMask = (1u << kBits) - 1;
  uint32_t two;
  if constexpr (kBits == 8) {
    two = *reinterpret_cast<const uint16_t*>(zeros + entry * 2);
  } else {
    const int bit = entry * 2 * kBits;
    two = zeros[bit / 8] >> bit % 8;
    if constexpr (kBits == 3 || kBits > 4) {
      two |= static_cast<uint32_t>(zeros[bit / 8 + 1]) << (8 - bit % 8);
      if constexpr (kBits == 7) two |= static_cast<uint32_t>(zeros[bit / 8 + 2]) << (16 - bit % 8);
    }
  }
  return make_float2(float_of_small(two & kMask), float_of_small(two >> kBits & kMask));
}

// y += what a chunk gives outputs g and g + 8 of a lane: with one token of group t of every four, else of
// token 4 set + t. chunk, zeros: in shared memory; kBlocks: of four groups.
template <int kBits, int kSets, int kBlocks>
__device__ __forceinline__ void add_chunk(const uint8_t* chunk, const uint8_t* zeros,
                                          const ChunkInputs<kSets>& x, int lane,
                                          float (&y)[kColumnsOf<kSets>][2]) {
  constexpr int kColumns = kColumnsOf<kSets>, kBlockSteps = MixedOrder::kSteps / kBlocks;
  constexpr int kBlockBytes = kBits == 1 ? 256 : 128;
  const int t = lane % 4;
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
    int acc[4][kColumns][4] = {};
#pragma unroll
    for (int s = 0; s < kBlockSteps; ++s) {
      const int step = block * kBlockSteps + s;
      MixedCodes<kBits> codes;
      codes.load(chunk, step, lane);
      uint2 b[kColumns];
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        uint32_t a[4];
        codes.take(step, q, a);
#pragma unroll
        for (int set = 0; set < kColumns; ++set) {
          if (q == 0 || kSets > 0)
            b[set] = *reinterpret_cast<const uint2*>(x.b[set] + step * x.step_bytes() + q * x.group_bytes());
          add_byte_product(acc[q][set], a[0], a[1], a[2], a[3], b[set].x, b[set].y);
        }
      }
    }
    const uint8_t* scales = chunk + kBits * MixedOrder::kDigitBytes + block * kBlockBytes;
#pragma unroll
    for (int entry = 0; entry < (kSets == 0 ? 1 : 4); ++entry) {
      const int q = kSets == 0 ? t : entry, at = lane / 4 * 4 + q;
      const float2 scale = floats_of(*reinterpret_cast<const uint32_t*>(scales + at * 4));
      // Of one bit: mean + scale (2 code - 1). Else scale (code - zero).
      const float2 zero = kBits == 1
                              ? make_float2(1, 1)
                              : zeros_at<kBits>(zeros + block * MixedOrder::zero_block_bytes(kBits), at);
      const float factor = MixedCodes<kBits>::factor(q) * (kBits == 1 ? 2 : 1);
#pragma unroll
      for (int set = 0; set < kColumns; ++set) {
        int whole[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const auto own = [&](int quarter) { return acc[kSets == 0 ? quarter : entry][set][i]; };
          const int even = t < 2 ? own(0) : own(2), odd = t < 2 ? own(1) : own(3);
          whole[i] = kSets > 0 ? own(0) : t % 2 == 0 ? even : odd;
        }
        const float2 of_x = x.of(set, block * 4 + q);
        const float first = static_cast<float>(whole[0] * 256 + whole[1]) * factor - zero.x * of_x.y;
        const float second = static_cast<float>(whole[2] * 256 + whole[3]) * factor - zero.y * of_x.y;
        y[set][0] += scale.x * of_x.x * first;
        y[set][1] += scale.y * of_x.x * second;
        if constexpr (kBits == 1) {
          const float2 mean = floats_of(*reinterpret_cast<const uint32_t*>(scales + 128 + at * 4));
          y[set][0] += mean.x * of_x.x * of_x.y;
          y[set][1] += mean.y * of_x.x * of_x.y;
        }
      }
    }
  }
}

// The same of a chunk of any width.
template <int kSets, int kBlocks>
__device__ __forceinline__ void add_chunk(int bits, const uint8_t* chunk, const uint8_t* zeros,
                                          const ChunkInputs<kSets>& x, int lane,
                                          float (&y)[kColumnsOf<kSets>][2]) {
  with_bits(bits, [&]<int kBits>() { add_chunk<kBits, kSets, kBlocks>(chunk, zeros, x, lane, y); });
}

}  // namespace grinqh::cuda
