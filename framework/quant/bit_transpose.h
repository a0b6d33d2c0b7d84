// Between codes and bit planes, eight codes at a time.
#pragma once

#include <cstdint>

namespace grinqh {

// Transposes an 8 x 8 bit matrix: bit r of byte q goes to bit q of byte r (three rounds of block swaps).
inline uint64_t transpose_bits(uint64_t x) {
  uint64_t t = (x ^ (x >> 7)) & 0x00aa00aa00aa00aaull;
  x ^= t ^ (t << 7);
  t = (x ^ (x >> 14)) & 0x0000cccc0000ccccull;
  x ^= t ^ (t << 14);
  t = (x ^ (x >> 28)) & 0x00000000f0f0f0f0ull;
  return x ^ t ^ (t << 28);
}

// Transposes an 8 x 8 matrix of bytes: byte r of word q goes to byte q of word r.
inline void transpose_bytes(uint64_t (&words)[8]) {
  constexpr uint64_t kLow[] = {0x00ff00ff00ff00ffull, 0x0000ffff0000ffffull, 0x00000000ffffffffull};
  for (int round = 0; round < 3; ++round) {
    const int step = 1 << round, shift = 8 * step;
    for (int q = 0; q < 8; ++q) {
      if (q & step) continue;
      const uint64_t t = ((words[q] >> shift) ^ words[q + step]) & kLow[round];
      words[q] ^= t << shift;
      words[q + step] ^= t;
    }
  }
}

}  // namespace grinqh
