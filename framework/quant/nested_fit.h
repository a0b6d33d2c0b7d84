// What prefixes of nested 8-bit codes decode to, fitted to the weights that have them, and what is left of
// the weights' error at each level. Codes are found from the weights where they are needed
// (quant/rounding_rules.h): none are stored.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/matrix.h"
#include "quant/precision.h"

namespace grinqh {

// The grids of a layer: position p in [0, 256] stands for minimum + scale p.
struct NestedGrids {
  // Grid of a weight: (row / grid_rows) row_stride + (column / grid_columns) column_stride.
  int64_t grid_rows = 1, row_stride = 0, grid_columns = 1, column_stride = 0;
  std::span<const uint16_t> scales, minima;  // float16, of every grid

  int64_t grid_of(int64_t row, int64_t column) const {
    return row / grid_rows * row_stride + column / grid_columns * column_stride;
  }
};

// The cell that each weight lies in. Both [out, in].
void round_to_cells(Matrix<const float> weight, const NestedGrids& grids, Matrix<uint8_t> codes);

// Sums over all weights by the prefix of their codes at one level, in float64.
struct PrefixSums {
  Level level = 0;
  std::span<const float> counts = {};  // [in]: what each channel counts; empty: all alike
  std::vector<double> weight;          // [2^level]: of scale^2 count
  std::vector<double> position;        // [2^level]: of scale^2 count position
};

// Adds the weights' sums to all of `sums`, whose vectors have their sizes. weight: [out, in].
void sum_prefixes(Matrix<const float> weight, const NestedGrids& grids, std::span<PrefixSums> sums);

// The sums that a table of `levels` levels is fitted to, at zero: a level that counts channels by their
// energy has its own, the finest of the others serves them all. energies: [served, in], or empty.
std::vector<PrefixSums> table_sums(int levels, std::span<const Level> served, Matrix<const float> energies);

// For each level 1 .. levels and prefix the mean position, float16: the value that minimizes the squared
// error. A prefix without weights keeps the middle of its cell.
std::vector<uint16_t> fitted_table(int levels, std::span<const PrefixSums> sums);

// What each 8-bit code decodes to at each level, the table's entry or the middle of its cell. [levels, 256];
// zeros at level 0.
MatrixBuffer<float> nested_positions(std::span<const Level> levels, std::span<const uint16_t> table);

// level_errors() of quant/grading_rule.h for these codes: squared errors by channel, [levels, in].
MatrixBuffer<double> nested_errors(Matrix<const float> weight, const NestedGrids& grids,
                                   std::span<const Level> levels, Matrix<const float> positions);

// What an accelerator is asked for.
struct PrefixTask {
  Matrix<const float> weight;
  const NestedGrids& grids;
  std::span<PrefixSums> sums;
};
struct NestedErrorTask {
  Matrix<const float> weight;
  const NestedGrids& grids;
  std::span<const Level> levels;
  Matrix<const float> positions;
  Matrix<double> errors;
};

}  // namespace grinqh
