#include "quant/product_error.h"

#include <cmath>
#include <limits>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"

namespace grinqh {

namespace {

constexpr int64_t kTaskRows = 64;

double dot(const float* a, const float* b, int64_t count) {
  constexpr int kSums = 8;  // which the compiler keeps in one wide register
  double sums[kSums] = {}, sum = 0;
  int64_t i = 0;
  for (; i + kSums <= count; i += kSums)
    for (int j = 0; j < kSums; ++j) sums[j] += static_cast<double>(a[i + j]) * static_cast<double>(b[i + j]);
  for (; i < count; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  for (const double each : sums) sum += each;
  return sum;
}

// y of tokens that read the weights alike. x: [tokens, in]
void add_product(const QuantizedLinear& layer, std::span<const Level> levels, Matrix<const float> x,
                 Matrix<double> y) {
  const int64_t out = layer.out(), in = layer.in();
  parallel_for((out + kTaskRows - 1) / kTaskRows, [&](int64_t task) {
    const int64_t begin = task * kTaskRows, end = std::min(begin + kTaskRows, out);
    const MatrixBuffer<float> w(end - begin, in);
    layer.dequantize_rows(levels, begin, end, w);
    for (int64_t row = begin; row < end; ++row)
      for (int64_t t = 0; t < x.rows; ++t) y(t, row) = dot(x.row(t), w.row(row - begin), in);
  });
}

}  // namespace

MatrixBuffer<double> exact_product(const QuantizedLinear& layer, const Precision& precision,
                                   Matrix<const float> x) {
  MatrixBuffer<double> y(x.rows, layer.out());
  if (precision.levels.empty()) {
    const std::vector<Level> levels(static_cast<size_t>(layer.in()), layer.resolve(precision.uniform));
    add_product(layer, levels, x, y);
  } else {
    const Matrix<const Level> levels = precision.levels;
    check(levels.rows == x.rows || levels.rows == 1, "exact_product: levels of one token or of all");
    if (levels.rows == 1)
      add_product(layer, levels.row_span(0), x, y);
    else
      for (int64_t t = 0; t < x.rows; ++t)
        add_product(layer, levels.row_span(t), x.rows_between(t, t + 1), y.view().rows_between(t, t + 1));
  }
  return y;
}

double product_error(Matrix<const float> y, Matrix<const double> exact) {
  check(y.rows == exact.rows && y.cols == exact.cols, "product_error: products of one shape");
  double worst = 0;
  for (int64_t t = 0; t < y.rows; ++t) {
    double difference = 0, norm = 0;
    for (int64_t n = 0; n < y.cols; ++n) {
      const double off = static_cast<double>(y(t, n)) - exact(t, n);
      difference += off * off;
      norm += exact(t, n) * exact(t, n);
    }
    const double error = std::sqrt(difference / norm);
    worst = std::isfinite(error) ? std::max(worst, error) : std::numeric_limits<double>::infinity();
  }
  return worst;
}

}  // namespace grinqh
