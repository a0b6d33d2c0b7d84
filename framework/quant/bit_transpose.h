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

}  // namespace grinqh
