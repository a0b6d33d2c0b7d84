// Single weights that are kept in float16 beside the codes (dense and sparse).
#pragma once

#include <cstdint>
#include <vector>

#include "core/matrix.h"
#include "quant/sensitivity.h"

namespace grinqh {

// By row, in the order of the rows and within each by column.
struct Outliers {
  std::vector<uint32_t> row_begin;  // [out + 1], into columns; empty: no outliers at all
  std::vector<uint32_t> columns;

  int64_t count() const { return static_cast<int64_t>(columns.size()); }
  bool none() const { return columns.empty(); }
  std::span<const uint32_t> of_row(int64_t row) const;
};

// Shares of the matrix's weights: first the most sensitive, then of the others the largest in magnitude. Ties
// go to the weight that comes first. Counts are rounded to the nearest.
struct OutlierShares {
  double sensitive = 0;
  double large = 0;
};
Outliers select_outliers(Matrix<const float> weight, const Sensitivity& sensitivity, OutlierShares shares);

}  // namespace grinqh
