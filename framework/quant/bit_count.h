// Bits by what they are for. Stored bits are summed from owned buffers; read bits from what a token touches.
#pragma once

#include <cstdint>

namespace grinqh {

enum class Role : uint8_t { codes, scales, zeros, codebook, index, outliers, padding };
inline constexpr int kRoles = 7;

struct BitCount {
  int64_t bits[kRoles] = {};

  int64_t& operator[](Role role) { return bits[static_cast<int>(role)]; }
  int64_t operator[](Role role) const { return bits[static_cast<int>(role)]; }
  int64_t codes() const { return (*this)[Role::codes]; }
  int64_t total() const {
    int64_t sum = 0;
    for (const int64_t count : bits) sum += count;
    return sum;
  }
  BitCount& operator+=(const BitCount& other) {
    for (int i = 0; i < kRoles; ++i) bits[i] += other.bits[i];
    return *this;
  }
};

}  // namespace grinqh
