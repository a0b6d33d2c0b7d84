// SINQ (Mueller et al., 2509.22944): a scale for the rows and one for the columns of each tile, found by
// Sinkhorn-like normalization of their standard deviations, then round to nearest. No data.
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/dtype.h"
#include "core/parallel.h"
#include "kernels/group_affine/layout.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

constexpr double kLeastFactor = 0.7, kMostFactor = 2.0;  // of one step
constexpr double kLeastLog = -0.3, kMostLog = 10.0;      // of a scale in all

using Doubles = std::vector<double>;

// Standard deviations of the rows and columns of tile / e^row_log / e^column_log.
struct Deviations {
  Doubles row, column;

  Deviations(Matrix<const float> tile, const Doubles& row_log, const Doubles& column_log)
      : row(row_log.size()), column(column_log.size()) {
    const auto rows = static_cast<double>(tile.rows), columns = static_cast<double>(tile.cols);
    Doubles factor(column.size()), sum(column.size()), squares(column.size());
    for (size_t i = 0; i < factor.size(); ++i) factor[i] = std::exp(-column_log[i]);
    for (size_t r = 0; r < row.size(); ++r) {
      const double row_factor = std::exp(-row_log[r]);
      const float* from = tile.row(static_cast<int64_t>(r));
      double row_sum = 0, row_squares = 0;
      for (size_t i = 0; i < factor.size(); ++i) {
        const double value = static_cast<double>(from[i]) * factor[i] * row_factor;
        row_sum += value;
        row_squares += value * value;
        sum[i] += value;
        squares[i] += value * value;
      }
      row[r] = deviation(row_sum / columns, row_squares / columns);
    }
    for (size_t i = 0; i < column.size(); ++i) column[i] = deviation(sum[i] / rows, squares[i] / rows);
  }

  // Least and greatest of those that are not zero; {0, 0} if all are.
  std::pair<double, double> range() const {
    double low = HUGE_VAL, high = 0;
    for (const Doubles* all : {&row, &column})
      for (const double each : *all)
        if (each > 0) low = std::min(low, each), high = std::max(high, each);
    return {high > 0 ? low : 0.0, high};
  }

 private:
  // 0 where nothing but the rounding of the sums is left of the variance.
  static double deviation(double mean, double mean_square) {
    constexpr double kRounding = 1e-12;
    const double variance = mean_square - mean * mean;
    return variance > kRounding * mean_square ? std::sqrt(variance) : 0.0;
  }
};

void step(Doubles& logs, const Doubles& deviations, double target) {
  for (size_t i = 0; i < logs.size(); ++i)
    if (deviations[i] > 0)
      logs[i] = std::clamp(logs[i] + std::log(std::clamp(deviations[i] / target, kLeastFactor, kMostFactor)),
                           kLeastLog, kMostLog);
}

// Logarithms of the column scales of a tile [rows, group] at the least imbalance, the ratio of the greatest
// to the least standard deviation of all rows and columns; the search ends when it no longer falls.
Doubles balance(Matrix<const float> tile, int iterations) {
  Doubles row_log(static_cast<size_t>(tile.rows)), column_log(static_cast<size_t>(tile.cols));
  Doubles best = column_log;
  double target = 0, least = HUGE_VAL;
  for (int k = 0; k <= iterations; ++k) {
    const Deviations deviations(tile, row_log, column_log);
    const auto [low, high] = deviations.range();
    if (!(high < least * low)) break;
    least = high / low;
    best = column_log;
    if (k == 0) target = low;
    step(column_log, deviations.column, target);
    step(row_log, deviations.row, target);
  }
  return best;
}

class Sinq final : public Quantizer {
 public:
  struct Options {
    int bits = 4;
    int64_t group = 64;
    int iterations = 16;
    template <class V>
    void fields(V& v) {
      v("bits", bits, Range{2, 8}, "width of a code");
      v("group", group, Range{0, 1 << 20},
        "consecutive inputs that share a scale, the width of a tile; 0: per output channel");
      v("iterations", iterations, Range{0, 1000}, "most steps of normalization; 0: no column scales");
    }
  };

  explicit Sinq(Options options) : options_(options) {}

  std::unique_ptr<QuantizedLinear> quantize(const LinearTask& task) const override {
    const Matrix<const float> w = task.weight;
    GroupAffineShape shape{w.rows, w.cols, options_.bits, options_.group};
    shape.column_scales = true;
    const std::vector<uint16_t> columns = column_scales(w, shape);

    // A tile's row scale multiplies both the range of a row's group and the weights in it: it cancels in the
    // codes, and what fit() finds for W / t is already the scale with the row's folded in.
    const AffineGridRule rule{options_.bits, false};
    MatrixBuffer<uint8_t> codes(w.rows, w.cols);
    MatrixBuffer<AffineGrid> grids(w.rows, shape.groups());
    parallel_for(w.rows, [&](int64_t row) {
      std::vector<float> normal(columns.size());
      for (size_t i = 0; i < normal.size(); ++i)
        normal[i] = w(row, static_cast<int64_t>(i)) / from_half(columns[i]);
      for (int64_t g = 0; g < shape.groups(); ++g)
        grids.row(row)[g] = rule.fit(shape.group_of(normal, g), task.id);
      for (int64_t i = 0; i < w.cols; ++i)
        codes.row(row)[i] =
            rule.round(normal[static_cast<size_t>(i)], grids.row(row)[i / shape.group_size()]);
    });
    return make_group_affine(shape, codes, grids, columns);
  }

 private:
  // float16 [in]. A factor common to a tile's columns cancels in the codes too: their geometric mean is made
  // 1, so that the group scales keep the size of the weights.
  std::vector<uint16_t> column_scales(Matrix<const float> w, const GroupAffineShape& shape) const {
    std::vector<uint16_t> scales(static_cast<size_t>(shape.in));
    parallel_for(shape.groups(), [&](int64_t g) {
      const int64_t begin = g * shape.group_size(), end = std::min(begin + shape.group_size(), shape.in);
      const Doubles logs = balance(w.cols_between(begin, end), options_.iterations);
      double mean = 0;
      for (const double each : logs) mean += each / static_cast<double>(logs.size());
      for (size_t i = 0; i < logs.size(); ++i)
        scales[static_cast<size_t>(begin) + i] = to_half(static_cast<float>(std::exp(logs[i] - mean)));
    });
    return scales;
  }

  Options options_;
};

const Register<Quantizer, Sinq> plugin{"sinq", "column scales by Sinkhorn normalization, round to nearest"};

}  // namespace
}  // namespace grinqh
