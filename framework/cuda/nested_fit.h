// quant/nested_fit.h for weights on the device: codes are found where they are counted, and none are stored.
#pragma once

#include "cuda/types.h"
#include "quant/rounding_rules.h"

namespace grinqh::cuda {

// Where the grid of a weight lies, as NestedGrids says it; `first_row` of the layer is row 0 here.
struct NestedPlaces {
  int64_t first_row, grid_rows, row_stride, grid_columns, column_stride;
  const uint16_t *scales, *minima;
};

inline constexpr int kMaxSummedLevels = 6;  // of a table, 1 to 6

struct PrefixLevels {
  int count;
  int level[kMaxSummedLevels];
  const float* counts[kMaxSummedLevels];  // [in], or null: all channels alike
};
// Entries of all levels, one after the other: 2^level each.
int64_t prefix_entries(const PrefixLevels& levels);

int64_t prefix_scratch(int64_t rows, int64_t in, const PrefixLevels& levels);  // float64
// sums: [2, entries], of weights and of positions, overwritten; the same in every run. weight: [rows, in].
void sum_prefixes(const float* weight, int64_t rows, int64_t in, const NestedPlaces& places,
                  const PrefixLevels& levels, double* scratch, double* sums, Stream stream);

inline constexpr int kMaxNestedLevels = 9;

struct NestedErrors {
  const float* weight;  // [rows, in]
  int64_t rows, in;
  int levels;                   // at most kMaxNestedLevels
  const float* positions;       // [levels, 256]
  bool read[kMaxNestedLevels];  // whether anything is read at the level; zeros otherwise
};
int64_t nested_error_scratch(const NestedErrors& task);  // float64
// errors: [levels, in], overwritten; the same in every run.
void nested_errors(const NestedErrors& task, const NestedPlaces& places, double* scratch, double* errors,
                   Stream stream);

}  // namespace grinqh::cuda
