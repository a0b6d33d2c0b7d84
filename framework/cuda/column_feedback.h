// Error feedback within one block of columns (quant/column_feedback.h); what the block's errors do to later
// columns is a product, which the caller makes.
#pragma once

#include "cuda/nested_fit.h"
#include "cuda/types.h"
#include "quant/rounding_rules.h"

namespace grinqh::cuda {

inline constexpr int kFeedbackColumns = 128;  // at most, in one call

// Columns [first, first + width) of rows that are rounded.
struct FeedbackBlock {
  int64_t rows, in;
  int64_t first;
  int width;           // 1 .. kFeedbackColumns
  float* current;      // [rows, in]; left as they were rounded
  const float* upper;  // [in, in], U
  const float* drift;  // [in, in], or null
  float* errors;       // [rows, kFeedbackColumns]: (weight - rounded) / U_ii; zero beyond the width
};

// As quant/column_feedback.h; columns and inputs there are places and inputs here.
struct AffineColumns {
  AffineRule rule;
  int64_t group, groups;
  // [rows, in]: what grids are fitted to when a group begins, or null if all are given. Not changed by the
  // call: `current` serves where no block of fitting is wider than kFeedbackColumns.
  const float* fit_to;
  const int64_t* inputs;  // [in], or null
  uint8_t* codes;         // [rows, in]
  AffineGrid* grids;      // [rows, groups]
  uint32_t* too_large;    // gets the bits of the greatest scale that does not fit into float16; zero before
};

struct NestedColumns {
  NestedPlaces places;
  const float* positions;  // [levels, 256]
  const float* shares;     // [levels, in]
  int levels;              // at most kMaxNestedLevels
  uint8_t* codes;          // [rows, in]
};

void round_block(const FeedbackBlock& block, const AffineColumns& columns, Stream stream);
void round_block(const FeedbackBlock& block, const NestedColumns& columns, Stream stream);

}  // namespace grinqh::cuda
