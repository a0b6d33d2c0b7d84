// Codes, scales and zero points of a chunk of gemv_order.h, as a lane takes them from shared memory.
#pragma once

#include "cuda/decode.cuh"
#include "kernels/group_affine/gemv_order.h"

namespace grinqh::cuda {

// Where a chunk's parts lie in shared memory: codes, the blocks of scales, integer zero points.
struct SlotPlaces {
  int code_bytes, block_bytes, chunk_bytes, zero_bytes, zero_block_bytes, slot_bytes;

  static SlotPlaces of(const GemvOrder& order) {
    return {order.code_bytes(), order.block_bytes(),      order.chunk_bytes(),
            order.zero_bytes(), order.zero_block_bytes(), order.slot_bytes()};
  }
};

// The vectors of a lane for two steps: what 3 bits need together.
template <int kBits>
struct Codes {
  static constexpr int kVectors = kBits == 3 ? 3 : kBits;
  uint32_t words[kVectors][4];
  uint32_t split[kBits == 3 ? 4 : 1];

  __device__ void load(const uint8_t* chunk, int pair, int lane) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const uint4 four = *reinterpret_cast<const uint4*>(chunk + ((pair * kVectors + v) * 32 + lane) * 16);
      words[v][0] = four.x;
      words[v][1] = four.y;
      words[v][2] = four.z;
      words[v][3] = four.w;
    }
    if constexpr (kBits == 3) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        split[i] = (words[0][i] >> 6 & 0x03030303u) | (words[1][i] >> 4 & 0x0c0c0c0cu) |
                   (words[2][i] >> 2 & 0x30303030u);
    }
  }

  // Of step `odd` of the two, group q.
  __device__ void take(int odd, int q, uint32_t (&a)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (kBits == 3) {
        const uint32_t word = q < 2 ? words[odd][i] : odd == 0 ? words[2][i] : split[i];
        a[i] = word & (0x07070707u << q % 2 * 3);
      } else if constexpr (kBits == 8) {
        a[i] = words[odd * 4 + q][i];
      } else {
        constexpr int kShare = 8 / kBits;
        constexpr uint32_t kMask = kBits == 2 ? 0x03030303u : 0x0f0f0f0fu;
        a[i] = words[odd * (kBits / 2) + q / kShare][i] & (kMask << q % kShare * kBits);
      }
    }
  }

  // What the place of group q's codes multiplies them by, inverted.
  static __device__ float factor(int q) {
    constexpr int kShare = kBits == 3 ? 2 : 8 / kBits;
    return __int_as_float((127 - q % kShare * kBits) << 23);
  }
};

__device__ inline float2 of_halves(uint32_t two) {
  return make_float2(float_of_half(static_cast<uint16_t>(two)),
                     float_of_half(static_cast<uint16_t>(two >> 16)));
}

// Zero points of outputs g and g + 8, entry 4 g + q of a block's, as they lie.
template <int kBits>
__device__ inline uint32_t integer_zeros_at(const uint8_t* zeros, int entry) {
  const int bit = entry * 2 * kBits;
  if constexpr (kBits == 8) return *reinterpret_cast<const uint16_t*>(zeros + entry * 2);
  const uint32_t window = zeros[bit / 8] >> bit % 8;
  if constexpr (kBits == 3) return window | static_cast<uint32_t>(zeros[bit / 8 + 1]) << (8 - bit % 8);
  return window;
}
template <int kBits>
__device__ inline float2 of_integers(uint32_t two) {
  constexpr uint32_t kMask = (1u << kBits) - 1;
  return make_float2(float_of_small(two & kMask), float_of_small(two >> kBits & kMask));
}

// What scales the sums of a block's four groups, as it lies: of one entry with a single token, else of the
// four of an output. Loaded before the products, which then hide it.
template <int kBits, int kSets>
struct Grid {
  static constexpr int kEntries = kSets == 0 ? 1 : 4;
  uint32_t scales[kEntries], zeros[kEntries];

  // zeros_at: the chunk's integer zero points; row_zeros: instead of zero points that it does not have.
  __device__ void load(const SlotPlaces& p, const uint8_t* slot, const uint8_t* zeros_at, int block, int lane,
                       uint32_t row_zeros) {
    const uint8_t* at = slot + p.code_bytes + block * p.block_bytes;
#pragma unroll
    for (int q = 0; q < kEntries; ++q) {
      const int entry = kSets == 0 ? lane : lane / 4 * 4 + q;
      constexpr uint32_t kOnes = 0x3c003c00u;  // float16
      scales[q] = p.block_bytes == 0 ? kOnes : *reinterpret_cast<const uint32_t*>(at + entry * 4);
      zeros[q] = row_zeros;
      if (p.zero_bytes > 0)
        zeros[q] = integer_zeros_at<kBits>(zeros_at + block * p.zero_block_bytes, entry);
      else if (p.block_bytes > 128)
        zeros[q] = *reinterpret_cast<const uint32_t*>(at + 128 + entry * 4);
    }
  }
  __device__ float2 zero(int q, bool halves) const {
    return halves ? of_halves(zeros[q]) : of_integers<kBits>(zeros[q]);
  }
};

}  // namespace grinqh::cuda
