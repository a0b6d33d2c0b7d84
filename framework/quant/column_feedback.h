// Rounding column by column with error feedback: what a column's rounding gets wrong is made up for by the
// columns that are not rounded yet (Frantar et al., GPTQ, 2210.17323; the sequence of updates is that of its
// authors' code). How a column is rounded is the caller's.
#pragma once

#include <functional>
#include <span>

#include "core/cholesky.h"
#include "core/matrix.h"

namespace grinqh {

// A slice of output rows at the moment when column `column` is rounded. Both matrices are channel-major,
// [in, rows of the slice].
struct ColumnStep {
  int64_t column;
  int64_t first_row;            // of the slice, in the layer
  Matrix<const float> block;    // weights as they were when this block of columns began
  Matrix<const float> current;  // with all feedback up to now; row `column` is what is to be rounded
};

// Rounds current.row(column) and writes what each weight is off by (weight - rounded) to `error`. Slices are
// rounded in parallel.
using RoundColumn = std::function<void(const ColumnStep& step, std::span<float> error)>;

struct FeedbackOptions {
  int64_t block = 128;  // columns whose feedback to later columns is applied together
  // [in, in], strictly upper, in the order of the columns: what later columns gain for a column's weight,
  // rounding aside. Empty: nothing.
  Matrix<const float> drift = {};
};

// What later columns must gain so that the layer on the inputs x of the quantized model gives what it gave
// on the float model's: alpha strict_upper(A U^T) U, A = E[(x_float - x) x^T] (Li et al., GPTAQ, 2504.02692).
// A and the factor in the order of the columns.
MatrixBuffer<float> drift_feedback(Matrix<const float> input_drift, const InverseFactor& factor,
                                   double alpha);

// weight: [out, in]. factor: of the inputs' second moments, in the order of the columns.
void round_with_feedback(Matrix<const float> weight, const InverseFactor& factor,
                         const FeedbackOptions& options, const RoundColumn& round);

}  // namespace grinqh
