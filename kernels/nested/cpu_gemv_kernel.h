// The arithmetic of the CPU's decoding kernel of "nested", for raw memory in the order of cpu_order.h.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "kernels/nested/cpu_order.h"

namespace grinqh::nested {

// What a level's codes stand for, in steps of the 8-bit code: unit * value + bias, where value is the code
// moved up to 1, 2, 4 or 8 bits, or the entry of a table.
struct LevelValues {
  int width = 0;     // 1, 2, 4 or 8 bits that the code is moved up to
  int exponent = 0;  // unit = 2^exponent
  // Of the kernel's sums: codes are multiplied where they lie in a byte.
  std::array<int, CpuOrder::kSums> exponents{};
  std::array<float, CpuOrder::kSums> units{};
  float bias = 0;
  bool by_table = false;
  std::array<int16_t, 64> table{};  // by as many upper bits of the code, repeated
};

// One token's inputs and what it reads of them. Blocks' channels are listed from 0, by level and ascending.
struct TokenInputs {
  const float* x;          // [in], zeros where nothing is read
  const float* biases;     // [in], of each channel's level
  const uint16_t* listed;  // [in], block after block
  const int32_t* counts;   // [blocks][9]: how many of a block's channels are read at each level
};

struct TileWeights {
  const uint8_t* lines;
  const uint16_t *scales, *minima;  // of the tile's first group on: [groups][in], or [groups][512]
};

struct TileTask {
  const CpuOrder& order;
  std::span<const CpuOrder::Block> blocks;  // of the order
  int64_t tile, first_block, end_block;
  std::span<const LevelValues> levels;  // [9]
  float limit;                          // greatest factor that sums of 32 bits allow
};

// y: [tokens][512], overwritten with the sums over the task's blocks.
void multiply_tile(const TileTask& task, const TileWeights& weights, std::span<const TokenInputs> tokens,
                   float* y);

}  // namespace grinqh::nested
