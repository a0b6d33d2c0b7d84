// Pseudo-random bfloat16 values of which each is a function of its place: the CPU and devices make the same
// ones wherever they are wanted, and no copy travels.
#pragma once

#include <bit>
#include <cstdint>

#include "core/host_device.h"

namespace grinqh {

// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
GRINQH_BOTH inline uint64_t mixed_bits(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// Nearly normal, of variance 1: four 16-bit parts of one hash, summed.
GRINQH_BOTH inline float nearly_normal(uint64_t bits) {
  float sum = 0;
  for (int shift = 0; shift < 64; shift += 16) sum += static_cast<float>(bits >> shift & 0xffff);
  constexpr float kMean = 2 * 65535.0f, kDeviation = 37837.0f;  // of the sum: 65536 / sqrt(3)
  return (sum - kMean) / kDeviation;
}

GRINQH_BOTH inline uint16_t nearest_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

struct GeneratedValues {
  uint64_t stream = 0;
  float deviation = 1;

  GRINQH_BOTH uint64_t bits(int64_t i) const {
    return mixed_bits(stream + static_cast<uint64_t>(i) * 0x9e3779b97f4a7c15u);
  }
  // Of element i as bfloat16.
  GRINQH_BOTH uint16_t at(int64_t i) const { return nearest_bf16(deviation * nearly_normal(bits(i))); }
};

}  // namespace grinqh
