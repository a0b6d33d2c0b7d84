// Seeded random numbers that are the same on every machine and standard library. SplitMix64 (Steele, Lea and
// Flood, 2014): a counter and a finalizer, so streams for different purposes come from different seeds.
#pragma once

#include <cstdint>

namespace grinqh {

class Rng {
 public:
  // `stream` separates independent sequences under one seed (a sequence of a batch, a layer, ...).
  explicit Rng(uint64_t seed, uint64_t stream = 0) : state_(mix(seed) ^ mix(stream + kGamma)) {}

  // As if so many had been drawn.
  void skip(uint64_t draws) { state_ += draws * kGamma; }
  // For those who draw elsewhere: the next bits are those of the state plus the constant, mixed.
  uint64_t state() const { return state_; }

  uint64_t bits() { return mix(state_ += kGamma); }
  // Uniform in [0, 1) with 53 bits.
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  // Uniform in [0, bound); the bias of the multiply-shift is below 2^-32 for the bounds in use.
  uint64_t below(uint64_t bound) { return static_cast<uint64_t>(uniform() * static_cast<double>(bound)); }
  // Standard normal (Box-Muller, one of the pair).
  double normal();

 private:
  static constexpr uint64_t kGamma = 0x9e3779b97f4a7c15u;
  static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  uint64_t state_;
};

}  // namespace grinqh
