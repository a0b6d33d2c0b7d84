#include "quant/column_feedback.h"

#include <algorithm>
#include <variant>

#include "core/accelerator.h"
#include "core/error.h"
#include "core/gemm.h"
#include "core/parallel.h"

namespace grinqh {

namespace {

constexpr int64_t kSliceRows = 64;  // rows are independent of each other: a slice stays in cache

// All columns of one slice.
void round_slice(Matrix<const float> weight, int64_t begin, int64_t end, Matrix<const float> upper,
                 const FeedbackOptions& options, const RoundColumn& round) {
  const int64_t in = weight.cols, rows = end - begin;
  MatrixBuffer<float> current(in, rows), errors(options.block, rows);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < in; ++i) current.row(i)[r] = weight(begin + r, i);
  MatrixBuffer<float> block(in, rows);
  std::copy_n(current.data(), current.size(), block.data());
  const Matrix<const float> drift = options.drift;
  MatrixBuffer<float> weights(drift.empty() ? 0 : options.block, rows);  // of the block, before rounding

  for (int64_t first = 0; first < in; first += options.block) {
    const int64_t last = std::min(first + options.block, in);
    for (int64_t i = first; i < last; ++i) {
      const std::span<float> error(errors.row(i - first), static_cast<size_t>(rows));
      round({i, begin, block.view(), current.view()}, error);
      for (float& e : error) e /= upper(i, i);
      if (!drift.empty()) {
        float* weight_column = weights.row(i - first);
        std::copy_n(current.row(i), rows, weight_column);
        for (int64_t j = i + 1; j < last; ++j) {
          const float share = drift(i, j);
          float* to = current.row(j);
          for (int64_t r = 0; r < rows; ++r) to[r] += weight_column[r] * share;
        }
      }
      for (int64_t j = i; j < last; ++j) {
        const float share = upper(i, j);
        float* to = current.row(j);
        for (int64_t r = 0; r < rows; ++r) to[r] -= error[static_cast<size_t>(r)] * share;
      }
    }
    if (last == in) break;
    // current[last:] -= U[first:last, last:]^T errors
    const Matrix<float> rest = current.view().rows_between(last, in);
    matmul_tn_serial(upper.rows_between(first, last).cols_between(last, in),
                     errors.view().rows_between(0, last - first), rest, -1.0f, Output::add);
    if (!drift.empty())
      matmul_tn_serial(drift.rows_between(first, last).cols_between(last, in),
                       weights.view().rows_between(0, last - first), rest, 1.0f, Output::add);
    std::copy_n(rest.data, rest.rows * rows, block.row(last));
  }
}

void round_slices(Matrix<const float> weight, const InverseFactor& factor, const FeedbackOptions& options,
                  const RoundColumn& round) {
  parallel_for((weight.rows + kSliceRows - 1) / kSliceRows, [&](int64_t slice) {
    const int64_t begin = slice * kSliceRows;
    round_slice(weight, begin, std::min(begin + kSliceRows, weight.rows), factor.upper.view(), options,
                round);
  });
}

template <class Rounding>
void round_on_host(Matrix<const float> weight, const InverseFactor& factor, const FeedbackOptions& options,
                   const Rounding& rounding) {
  round_slices(weight, factor, options, host_rounding(rounding));
}

void round_on_host(Matrix<const float> weight, const InverseFactor& factor, const FeedbackOptions& options,
                   const NestedRounding& rounding) {
  NestedRounding keeping = rounding;
  MatrixBuffer<float> compensated;
  if (!rounding.sums.empty() && rounding.compensated.empty()) {
    compensated = MatrixBuffer<float>(weight.rows, weight.cols);
    keeping.compensated = compensated;
  }
  round_slices(weight, factor, options, host_rounding(keeping));
  if (!rounding.sums.empty()) sum_prefixes(keeping.compensated, rounding, rounding.sums);
}

}  // namespace

MatrixBuffer<float> drift_feedback(Matrix<const float> input_drift, const InverseFactor& factor,
                                   double alpha) {
  const int64_t in = factor.upper.rows();
  check(input_drift.rows == in && input_drift.cols == in, "a drift of the layer's inputs");
  MatrixBuffer<float> response(in, in), feedback(in, in);
  product_nt(input_drift, factor.upper.view(), response.view());
  parallel_for(in, [&](int64_t i) {
    for (int64_t j = 0; j < in; ++j)
      response.row(i)[j] = j > i ? static_cast<float>(alpha) * response.row(i)[j] : 0.0f;
  });
  product_nn(response.view(), factor.upper.view(), feedback.view());
  return feedback;
}

void round_with_feedback(Matrix<const float> weight, const InverseFactor& factor,
                         const FeedbackOptions& options, const ColumnRounding& rounding) {
  check(factor.upper.rows() == weight.cols, "a factor of the layer's inputs");
  check(options.drift.empty() || (options.drift.rows == weight.cols && options.drift.cols == weight.cols),
        "drift feedback of the layer's inputs");
  if (const auto* affine = std::get_if<AffineRounding>(&rounding))
    check(!affine->fit || affine->inputs.empty(), "grids are fitted in the inputs' own order alone");
  const auto* by_callback = std::get_if<HostRounding>(&rounding);
  if (const auto installed = accelerator()) {
    if (!by_callback) return installed->round_with_feedback({weight, factor, options, rounding});
    if (by_callback->notes) (*by_callback->notes)["feedback_on_host"] = 1;
  }
  std::visit([&](const auto& each) { round_on_host(weight, factor, options, each); }, rounding);
}

}  // namespace grinqh
