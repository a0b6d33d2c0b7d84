// Squared differences of two matrices, summed by columns in float64.
#pragma once

#include "cuda/types.h"

namespace grinqh::cuda {

struct ColumnErrors {
  const float* a;       // [rows, cols]
  const float* b;       // the same, or null: zeros
  const float* counts;  // [rows]: what a row counts, or null: all alike
  int64_t rows, cols;
};

int64_t column_error_scratch(int64_t rows, int64_t cols);  // float64
// sums: [cols], overwritten; the same in every run.
void column_errors(const ColumnErrors& matrices, double* scratch, double* sums, Stream stream);

// sums[i] = the sum of part[p][i] over the parts, in their order. part: [parts, cols].
void add_parts(const double* part, int64_t parts, int64_t cols, double* sums, Stream stream);

}  // namespace grinqh::cuda
