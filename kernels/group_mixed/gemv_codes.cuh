// Codes of a chunk of gemv_order.h as operands of byte products, by their width.
#pragma once

#include "kernels/group_mixed/gemv_order.h"

namespace grinqh::cuda {

// Digits of kDigit bits of a lane, for one step.
template <int kDigit>
struct Digits {
  static constexpr int kVectors = kDigit < 2 ? 1 : kDigit / 2;
  uint32_t words[kVectors][4];

  // digits: of the lane
  __device__ void load(const uint8_t* digits, int step) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int vector = kDigit == 1 ? step / 2 : step * kVectors + v;
      const uint4 four = *reinterpret_cast<const uint4*>(digits + vector * (MixedOrder::kLanes * 16));
      words[v][0] = four.x;
      words[v][1] = four.y;
      words[v][2] = four.z;
      words[v][3] = four.w;
    }
  }
  // Those of group q in word i, moved to bit `to` of each byte; other bits are zero.
  __device__ uint32_t at(int step, int q, int i, int to) const {
    constexpr uint32_t kOnes = 0x01010101u, kMask = (1u << kDigit) - 1;
    constexpr int kShare = kDigit == 1 ? 8 : 8 / kDigit;
    const int from = MixedOrder::place_of(kDigit, step, q).shift;
    const uint32_t word = words[kDigit == 1 ? 0 : q / kShare][i];
    return (from > to ? word >> (from - to) : word << (to - from)) & kMask * kOnes << to;
  }
};
template <>
struct Digits<0> {
  __device__ void load(const uint8_t*, int) {}
  __device__ uint32_t at(int, int, int, int) const { return 0; }
};

// Codes of kBits bits, of one step.
template <int kBits>
struct MixedCodes {
  static constexpr int kFour = kBits < 8 ? kBits & 4 : 0, kTwo = kBits & 2, kOne = kBits & 1;
  Digits<kBits == 8 ? 8 : kFour> first;
  Digits<kTwo> second;
  Digits<kOne> third;

  __device__ void load(const uint8_t* codes, int step, int lane) {
    codes += lane * 16;
    first.load(codes, step);
    second.load(codes + kFour * MixedOrder::kDigitBytes, step);
    third.load(codes + (kFour + kTwo) * MixedOrder::kDigitBytes, step);
  }
  __device__ void take(int step, int q, uint32_t (&a)[4]) const {
    const int to = place_of(q);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      a[i] = first.at(step, q, i, to) | second.at(step, q, i, to + kFour) |
             third.at(step, q, i, to + kFour + kTwo);
  }

  // Where the codes of group q are put in their bytes: most stay where they lie.
  static __host__ __device__ constexpr int place_of(int q) {
    return kBits == 1   ? q
           : kBits == 2 ? 2 * q
           : kBits == 3 ? (q < 3 ? 2 * q : 5)
           : kBits == 4 ? q % 2 * 4
                        : 0;
  }
  // What undoes it.
  static __device__ float factor(int q) { return __int_as_float((127 - place_of(q)) << 23); }
};

}  // namespace grinqh::cuda
