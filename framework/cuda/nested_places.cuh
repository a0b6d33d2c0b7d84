// The grid of a nested weight, as device code looks it up.
#pragma once

#include "cuda/nested_fit.h"

namespace grinqh::cuda {

struct NestedGrid {
  float scale, minimum;
};

__device__ inline NestedGrid grid_of(const NestedPlaces& places, int64_t row, int64_t column) {
  const int64_t grid = (places.first_row + row) / places.grid_rows * places.row_stride +
                       column / places.grid_columns * places.column_stride;
  return {from_half(places.scales[grid]), from_half(places.minima[grid])};
}

// The grids of one column, row after row: divisions are made where a grid begins.
class ColumnGrids {
 public:
  __device__ ColumnGrids(const NestedPlaces& places, int64_t column) : places_(places), column_(column) {}
  __device__ const NestedGrid& at(int64_t row) {
    if (row >= next_) {
      grid_ = grid_of(places_, row, column_);
      next_ = ((places_.first_row + row) / places_.grid_rows + 1) * places_.grid_rows - places_.first_row;
    }
    return grid_;
  }

 private:
  const NestedPlaces& places_;
  int64_t column_, next_ = -1;
  NestedGrid grid_{};
};

}  // namespace grinqh::cuda
