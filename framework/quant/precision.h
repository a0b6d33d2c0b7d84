// What is read of a linear layer's weights, and when. A level is a code width in bits: 0 skips the channel.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "core/matrix.h"

namespace grinqh {

using Level = uint8_t;

// Stands for the highest level that a layer stores.
inline constexpr Level kFullLevel = 255;
inline constexpr int kMaxLevel = 16;

enum class Phase : uint8_t { prefill, decode };

// Where a token stands: prompts are processed in phase prefill, each token after them is one decode step.
struct Step {
  Phase phase = Phase::prefill;
  int32_t position = 0;  // in its sequence
  int32_t index = 0;     // decode steps before this one
  // What the sequence's schedule decided for this token (quant/schedule.h); nothing without one.
  Level scheduled = kFullLevel;
};

// The level of every (token, input channel), or one for all.
struct Precision {
  Level uniform = kFullLevel;
  Matrix<const Level> levels;  // [tokens, in]; empty: `uniform` holds
};

// How many input channels one token reads at each level: all that accounting needs to know of a token.
struct LevelCounts {
  std::array<int32_t, kMaxLevel + 1> channels{};

  // `stored`: the levels that can occur.
  static LevelCounts of(std::span<const Level> levels, std::span<const Level> stored) {
    constexpr size_t kBlock =
        128;  // a block's count fits into a byte, which the compiler sums in wide registers
    LevelCounts counts;
    for (const Level level : stored)
      for (size_t begin = 0; begin < levels.size(); begin += kBlock) {
        uint8_t found = 0;
        for (const Level each : levels.subspan(begin, std::min(kBlock, levels.size() - begin)))
          found += each == level;
        counts.channels[level] += found;
      }
    return counts;
  }
  static LevelCounts uniform(Level level, int64_t in) {
    LevelCounts counts;
    counts.channels[level] = static_cast<int32_t>(in);
    return counts;
  }
};

}  // namespace grinqh
