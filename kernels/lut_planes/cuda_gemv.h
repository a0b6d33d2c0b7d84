// Product of layers in the order of gemv_order.h with a few tokens. Needs compute capability 9.0.
#pragma once

#include "cuda/gemv_operands.h"
#include "kernels/lut_planes/gemv_order.h"

namespace grinqh::cuda {

// One layer of those that a product takes together.
struct PlanesPart {
  const uint8_t* chunks = nullptr;
  const uint16_t* tables = nullptr;
  const uint32_t* outlier_rows = nullptr;  // null if there are no outliers
  const void* outlier_columns = nullptr;   // uint32 if in > 65536, else uint16
  const uint16_t* outlier_values = nullptr;
  const uint8_t* outlier_codes = nullptr;
  int64_t table_offset[9] = {};  // of a level's, in entries
  int32_t out = 0, planes = 0;
  int32_t first_block = 0, first_out = 0;  // of all layers' blocks of 16 outputs, and outputs
  uint32_t stored = 0;                     // bit b: level b > 0 is
};

struct PlanesStream {
  static constexpr int kMostParts = 4;
  PlanesPart parts[kMostParts];
  int32_t part_count = 0, row_blocks = 0;
  int64_t in = 0;

  int col_chunks() const { return static_cast<int>((in + PlanesOrder::kInputs - 1) / PlanesOrder::kInputs); }
};

// What each part reads: a level that it stores, or one that lies on the device when the product runs. There,
// what is not stored stands for the next stored level below it, or the lowest.
struct PlanesLevels {
  uint8_t level[PlanesStream::kMostParts] = {};
  const uint8_t* on_device[PlanesStream::kMostParts] = {};  // null: `level` holds
};

// How a launch is cut: blocks of the grid, warps of a block; each warp has `depth` pieces of up to `piece`
// chunks in flight.
struct PlanesLaunch {
  int blocks = 0, warps = 0, depth = 0, piece = 0;
  int64_t shared_bytes = 0;
};
// For `tokens` at a time (1 or 4) that read `bits` planes at most, on a device of so many multiprocessors.
// depth = 0 if the input does not fit beside the weights in flight.
PlanesLaunch planes_launch(const PlanesStream& weights, int bits, int tokens, int multiprocessors);

// y = x W^T, 1 to 8 tokens. More than fit beside each other are several launches.
void lut_planes_gemv(const PlanesStream& weights, const PlanesLevels& levels, const GemvInput& input,
                     const GemvOutput& output, int multiprocessors, Stream stream);
// The same, cut as told: for measuring. 1 to 4 tokens.
void lut_planes_gemv(const PlanesStream& weights, const PlanesLevels& levels, const PlanesLaunch& launch,
                     const GemvInput& input, const GemvOutput& output, Stream stream);

}  // namespace grinqh::cuda
