#include "core/dtype.h"
#include "core/registry.h"
#include "model_files.h"
#include "numbers.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

using Doubles = std::vector<double>;

std::unique_ptr<QuantizedLinear> quantize(Matrix<const float> weight, int bits, int64_t group,
                                          int iterations = 16) {
  const LayerStats nothing;
  return Registry<Quantizer>::get()
      .make("sinq",
            {{"bits", {bits, "test"}}, {"group", {group, "test"}}, {"iterations", {iterations, "test"}}})
      ->quantize({"layer", weight, nothing});
}

Doubles halves(const QuantizedLinear& layer, const std::string& name) {
  const Buffers buffers = copy_buffers(layer);
  const std::vector<std::byte>& bytes = buffers.at(name);
  std::vector<uint16_t> values(bytes.size() / 2);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  Doubles result;
  for (const uint16_t value : values) result.push_back(from_half(value));
  return result;
}

Doubles column_scales(const QuantizedLinear& layer) { return halves(layer, "column_scales"); }

// Rows and columns of very different sizes.
MatrixBuffer<float> weights(int64_t rows, int64_t columns, uint64_t seed) {
  MatrixBuffer<float> w = testing::random_matrix(rows, columns, seed, 0.05);
  Rng rng(seed + 100);
  Doubles factors;
  for (int64_t i = 0; i < columns; ++i) factors.push_back(std::exp(0.7 * rng.normal()));
  for (int64_t row = 0; row < rows; ++row) {
    const double factor = std::exp(0.5 * rng.normal());
    for (int64_t i = 0; i < columns; ++i)
      w.row(row)[i] *= static_cast<float>(factor * factors[static_cast<size_t>(i)]);
  }
  return w;
}

double deviation(const Doubles& values) {
  double mean = 0, sum = 0;
  for (const double each : values) mean += each / static_cast<double>(values.size());
  for (const double each : values) sum += (each - mean) * (each - mean);
  return std::sqrt(sum / static_cast<double>(values.size()));
}

// One state of the paper's algorithm 1 on one tile.
struct State {
  double imbalance;
  Doubles column_log;
};

// The states that it goes through, the imbalance of each found from the scaled matrix itself.
std::vector<State> sinkhorn(Matrix<const float> w, int iterations) {
  Doubles u(static_cast<size_t>(w.rows)), v(static_cast<size_t>(w.cols));
  std::vector<State> states;
  double tau = 0;
  for (int k = 0; k <= iterations; ++k) {
    Doubles row_deviations, column_deviations;
    const auto scaled = [&](int64_t r, int64_t i) {
      return w(r, i) / std::exp(u[static_cast<size_t>(r)] + v[static_cast<size_t>(i)]);
    };
    for (int64_t r = 0; r < w.rows; ++r) {
      Doubles values;
      for (int64_t i = 0; i < w.cols; ++i) values.push_back(scaled(r, i));
      row_deviations.push_back(deviation(values));
    }
    for (int64_t i = 0; i < w.cols; ++i) {
      Doubles values;
      for (int64_t r = 0; r < w.rows; ++r) values.push_back(scaled(r, i));
      column_deviations.push_back(deviation(values));
    }
    const double low = std::min(std::ranges::min(row_deviations), std::ranges::min(column_deviations));
    const double high = std::max(std::ranges::max(row_deviations), std::ranges::max(column_deviations));
    if (k == 0) tau = low;
    states.push_back({high / low, v});
    for (size_t i = 0; i < v.size(); ++i)
      v[i] = std::clamp(v[i] + std::log(std::clamp(column_deviations[i] / tau, 0.7, 2.0)), -0.3, 10.0);
    for (size_t r = 0; r < u.size(); ++r)
      u[r] = std::clamp(u[r] + std::log(std::clamp(row_deviations[r] / tau, 0.7, 2.0)), -0.3, 10.0);
  }
  return states;
}

// The states before the imbalance first fails to fall.
std::vector<State> kept(std::vector<State> states) {
  size_t end = 1;
  while (end < states.size() && states[end].imbalance < states[end - 1].imbalance) ++end;
  states.resize(end);
  return states;
}

TEST(Sinq, ColumnScalesAreThoseOfThePaperAtEveryIteration) {
  const MatrixBuffer<float> w = weights(48, 80, 1);  // tiles of 32, 32 and 16 columns
  for (int64_t begin = 0; begin < 80; begin += 32) {
    const int64_t end = std::min<int64_t>(begin + 32, 80);
    const std::vector<State> states = kept(sinkhorn(w.view().cols_between(begin, end), 16));
    ASSERT_GT(states.size(), 2u) << "the imbalance falls for some iterations";
    for (int iterations = 0; iterations <= 16; ++iterations) {
      const State& state = states[std::min(static_cast<size_t>(iterations), states.size() - 1)];
      const Doubles found = column_scales(*quantize(w, 4, 32, iterations));
      double mean = 0;
      for (const double each : state.column_log) mean += each / static_cast<double>(state.column_log.size());
      for (size_t i = 0; i < state.column_log.size(); ++i) {
        const double expected = std::exp(state.column_log[i] - mean);
        ASSERT_NEAR(found[static_cast<size_t>(begin) + i], expected, 1e-3 * expected)
            << iterations << " " << i;
      }
    }
  }
}

// Greatest over least deviation of rows and columns, each row divided by its own: what the imbalance of a
// tile is once its columns' scales are given and its rows' are at their best.
double imbalance(const MatrixBuffer<float>& w, const Doubles& columns) {
  std::vector<Doubles> scaled;
  double low = HUGE_VAL, high = 0;
  for (int64_t r = 0; r < w.rows(); ++r) {
    Doubles& row = scaled.emplace_back();
    for (size_t i = 0; i < columns.size(); ++i) row.push_back(w.row(r)[i] / columns[i]);
    const double own = deviation(row);
    for (double& each : row) each /= own;
  }
  for (size_t i = 0; i < columns.size(); ++i) {
    Doubles column;
    for (const Doubles& row : scaled) column.push_back(row[i]);
    low = std::min(low, deviation(column));
    high = std::max(high, deviation(column));
  }
  return high / low;
}

TEST(Sinq, TheImbalanceOfTheStoredScalesFallsWithTheIterations) {
  const MatrixBuffer<float> w = weights(64, 64, 2);
  const double first = imbalance(w, column_scales(*quantize(w, 4, 64, 0)));
  double last = first;
  for (int iterations = 1; iterations <= 16; ++iterations) {
    const double next = imbalance(w, column_scales(*quantize(w, 4, 64, iterations)));
    EXPECT_LE(next, last * 1.002) << iterations;  // float16 scales
    last = next;
  }
  EXPECT_LT(last, first / 3);
}

TEST(Sinq, WithoutIterationsIsRoundToNearest) {
  const MatrixBuffer<float> w = weights(16, 100, 3);
  const LayerStats nothing;
  const auto nearest = Registry<Quantizer>::get()
                           .make("rtn", {{"bits", {3, "test"}}, {"group", {32, "test"}}})
                           ->quantize({"layer", w.view(), nothing});
  const MatrixBuffer<float> found = quantize(w, 3, 32, 0)->dequantize(), expected = nearest->dequantize();
  EXPECT_TRUE(std::equal(found.data(), found.data() + found.size(), expected.data()));
}

TEST(Sinq, WeightsAreWithinAStepOfBothTheirScales) {
  const MatrixBuffer<float> w = weights(16, 64, 4);
  const auto layer = quantize(w, 4, 32);
  const Doubles columns = halves(*layer, "column_scales"), groups = halves(*layer, "scales");
  ASSERT_EQ(columns.size(), 64u);
  const MatrixBuffer<float> found = layer->dequantize();
  for (int64_t r = 0; r < 16; ++r)
    for (int64_t i = 0; i < 64; ++i) {
      const double step = columns[static_cast<size_t>(i)] * groups[static_cast<size_t>(2 * r + i / 32)];
      // Half a step for rounding, and at a range's end as much for the rounded zero point.
      EXPECT_NEAR(found.row(r)[i], w.row(r)[i], 1.01 * step);
      const double steps = static_cast<double>(found.row(r)[i]) / step;
      EXPECT_NEAR(steps, std::nearbyint(steps), 1e-5);
    }
}

TEST(Sinq, LosesLessThanRoundToNearestOnUnbalancedWeights) {
  const MatrixBuffer<float> w = weights(64, 256, 5);
  for (const int bits : {3, 4})
    EXPECT_LT(testing::relative_error(quantize(w, bits, 64)->dequantize(), w),
              0.95 * testing::relative_error(quantize(w, bits, 64, 0)->dequantize(), w));
}

TEST(Sinq, ConstantRowsAndColumnsDoNotMatter) {
  MatrixBuffer<float> w = weights(32, 64, 6);
  for (int64_t i = 0; i < 64; ++i) w.row(3)[i] = 0, w.row(4)[i] = 0.01f;
  for (int64_t r = 0; r < 32; ++r) w.row(r)[9] = 0;
  const MatrixBuffer<float> found = quantize(w, 8, 0)->dequantize();
  EXPECT_LT(testing::relative_error(found, w), 0.02);
  for (int64_t r = 0; r < 32; ++r) EXPECT_EQ(found.row(r)[9], 0.0f);
}

TEST(Sinq, BitsByHand) {
  const MatrixBuffer<float> w = testing::random_matrix(10, 300, 7);
  // As round to nearest (10 rows of 300 codes, 3 scales, 12 bits of zero points filled to 16), and 300
  // columns.
  EXPECT_EQ(quantize(w, 4, 128)->stored_bits().total(), 10 * (300 * 4 + 3 * 16 + 16) + 300 * 16);
}

}  // namespace
}  // namespace grinqh
