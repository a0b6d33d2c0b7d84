// Rounding column by column with error feedback: what a column's rounding gets wrong is made up for by the
// columns that are not rounded yet (Frantar et al., GPTQ, 2210.17323; the sequence of updates is that of its
// authors' code). How a column is rounded is data where it can be, so that an accelerator can do it.
#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <variant>

#include "core/cholesky.h"
#include "core/matrix.h"
#include "quant/affine_grid.h"
#include "quant/nested_fit.h"

namespace grinqh {

// To the grids of groups of consecutive inputs of a row. Columns are places in the order of rounding; what is
// found lies where the inputs are.
struct AffineRounding {
  AffineGridRule rule;
  int64_t group = 0;  // inputs in a group, the last one of a row may have fewer
  // Whether a group's grid is fitted when its first column comes up, to the weights as they were when that
  // block of columns began (the authors' code does not see the feedback from within the block here).
  // Otherwise `grids` are given. Only in the inputs' own order.
  bool fit = true;
  std::span<const int64_t> inputs = {};  // [in]: the input of each place; empty: in their own order
  std::string layer;                     // which an error names
  Matrix<uint8_t> codes;                 // [out, in]
  Matrix<AffineGrid> grids;              // [out, groups]
};

// To nested 8-bit codes on fixed grids, of which each channel is served at several levels: the error of a
// weight is the mean of the levels' errors, weighted by the channel's share of energy at each.
struct NestedRounding : NestedGrids {
  Matrix<const float> positions;  // [levels, 256]: what each code decodes to
  Matrix<const float> shares;     // [levels, in]
  Matrix<uint8_t> codes;          // [out, in]
  // The weights that were rounded, [out, in], and their sums by prefix; empty: not asked for.
  Matrix<float> compensated = {};
  std::span<PrefixSums> sums = {};
};

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

// By the method's own function, which always runs on the host: where an accelerator is installed, this
// layer's feedback stays on the host all the same, and the notes get "feedback_on_host": 1.
struct HostRounding {
  RoundColumn round;
  std::map<std::string, double>* notes = nullptr;  // LinearTask::notes
};

using ColumnRounding = std::variant<AffineRounding, NestedRounding, HostRounding>;

struct FeedbackOptions {
  int64_t block = 128;  // columns whose feedback to later columns is applied together
  // [in, in], strictly upper, in the order of the columns: what later columns gain for a column's weight,
  // rounding aside. Empty: nothing.
  Matrix<const float> drift = {};
};

// weight: [out, in]. factor: of the inputs' second moments. All in the order of the columns.
struct FeedbackTask {
  Matrix<const float> weight;
  const InverseFactor& factor;
  FeedbackOptions options;
  const ColumnRounding& rounding;
};

// What later columns must gain so that the layer on the inputs x of the quantized model gives what it gave
// on the float model's: alpha strict_upper(A U^T) U, A = E[(x_float - x) x^T] (Li et al., GPTAQ, 2504.02692).
// A and the factor in the order of the columns.
MatrixBuffer<float> drift_feedback(Matrix<const float> input_drift, const InverseFactor& factor,
                                   double alpha);

// Rounds all columns; what is found lies where the rounding says.
void round_with_feedback(Matrix<const float> weight, const InverseFactor& factor,
                         const FeedbackOptions& options, const ColumnRounding& rounding);

// How the CPU rounds a column.
RoundColumn host_rounding(const AffineRounding& rounding);
RoundColumn host_rounding(const NestedRounding& rounding);
inline RoundColumn host_rounding(const HostRounding& rounding) { return rounding.round; }

}  // namespace grinqh
