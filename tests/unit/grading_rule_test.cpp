// The grading rule against what it is derived from: for a price lambda each channel takes the level that
// minimizes x^2 eps(b) + lambda b.
#include "quant/grading_rule.h"

#include <gtest/gtest.h>

#include "core/dtype.h"
#include "kernels/nested/layout.h"
#include "numbers.h"
#include "quant/log_histogram.h"

namespace grinqh {
namespace {

// Errors that fall with the level, not always convexly, and now and then rise.
MatrixBuffer<double> random_errors(int64_t levels, int64_t in, uint64_t seed) {
  MatrixBuffer<double> errors(levels, in);
  Rng rng(seed);
  for (int64_t i = 0; i < in; ++i) {
    double error = std::exp(2 * rng.normal());
    for (int64_t k = 0; k < levels; ++k) {
      errors.row(k)[i] = error;
      error *= 0.05 + 1.1 * rng.uniform();
    }
  }
  return errors;
}

Level by_price(double x, double price, Matrix<const double> errors, int64_t channel,
               const std::vector<Level>& levels, bool& tie) {
  double best = HUGE_VAL, second = HUGE_VAL;
  Level chosen = 0;
  for (size_t k = 0; k < levels.size(); ++k) {
    const double cost = x * x * errors(static_cast<int64_t>(k), channel) + price * levels[k];
    if (cost < best) {
      second = best;
      best = cost;
      chosen = levels[k];
    } else {
      second = std::min(second, cost);
    }
  }
  tie = second - best < 1e-5 * best;
  return chosen;
}

const std::vector<std::vector<Level>> kLevelSets{
    {0, 2, 4, 8}, {2, 3, 4, 8}, {0, 1, 2, 3, 4, 5, 6, 8}, {0, 8}};

TEST(GradingRule, ThresholdsChooseTheLevelOfLeastCost) {
  for (const std::vector<Level>& levels : kLevelSets) {
    const auto count = static_cast<int64_t>(levels.size());
    const MatrixBuffer<double> errors = random_errors(count, 300, 1);
    const MatrixBuffer<float> thresholds = unit_thresholds(errors.view(), levels);
    ASSERT_EQ(thresholds.rows(), count - 1);
    Rng rng(2);
    int ties = 0;
    for (const double price : {1e-4, 0.01, 1.0})
      for (int64_t i = 0; i < 300; ++i)
        for (int draw = 0; draw < 10; ++draw) {
          const double x = rng.normal() * std::exp(rng.normal());
          int level = levels[0];
          for (int64_t k = 0; k + 1 < count; ++k)
            if (std::abs(x) > std::sqrt(price) * static_cast<double>(thresholds.row(k)[i]))
              level += levels[static_cast<size_t>(k) + 1] - levels[static_cast<size_t>(k)];
          bool tie = false;
          const Level expected = by_price(x, price, errors.view(), i, levels, tie);
          ties += tie;
          if (!tie) {
            ASSERT_EQ(level, expected) << x << " " << price << " " << i;
          }
        }
    EXPECT_LT(ties, 20);
  }
}

TEST(GradingRule, ThresholdsAscend) {
  const std::vector<Level> levels = kLevelSets[2];
  const MatrixBuffer<float> thresholds = unit_thresholds(random_errors(8, 200, 3).view(), levels);
  for (int64_t k = 1; k < thresholds.rows(); ++k)
    for (int64_t i = 0; i < 200; ++i) EXPECT_LE(thresholds.row(k - 1)[i], thresholds.row(k)[i]);
}

TEST(GradingRule, LevelsThatSaveNothingAreNeverReached) {
  MatrixBuffer<double> errors(3, 1);
  errors.row(0)[0] = 0.0;  // a channel of zeros: any code makes it worse
  errors.row(1)[0] = 1.0;
  errors.row(2)[0] = 0.5;
  const std::vector<Level> levels{0, 2, 4};
  const MatrixBuffer<float> thresholds = unit_thresholds(errors.view(), levels);
  EXPECT_EQ(thresholds.row(0)[0], HUGE_VALF);
  EXPECT_EQ(thresholds.row(1)[0], HUGE_VALF);
}

struct Activations {
  Activations(int64_t tokens, int64_t in) : x(testing::random_matrix(tokens, in, 4)) {
    histogram.resize(static_cast<size_t>(in * LogHistogram::kBins));
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t i = 0; i < in; ++i) {
        x.row(t)[i] *= static_cast<float>(std::exp2(static_cast<double>(i % 7) - 3));
        ++histogram[static_cast<size_t>(i * LogHistogram::kBins + LogHistogram::bin(std::abs(x.row(t)[i])))];
      }
  }
  MatrixBuffer<float> x;
  std::vector<float> histogram;
};

TEST(GradingRule, TheScaleMeetsTheBudgetOnTheCalibrationData) {
  const Activations activations(3000, 60);
  for (const std::vector<Level>& levels : kLevelSets)
    for (const double bits : {2.25, 2.5, 3.0, 4.0, 6.0}) {
      const MatrixBuffer<float> thresholds =
          unit_thresholds(random_errors(static_cast<int64_t>(levels.size()), 60, 5).view(), levels);
      const double scale = solve_threshold_scale(activations.histogram, thresholds.view(), levels, bits);
      double sum = 0;
      for (int64_t t = 0; t < 3000; ++t)
        for (int64_t i = 0; i < 60; ++i) {
          sum += levels[0];
          for (int64_t k = 0; k < thresholds.rows(); ++k)
            if (std::abs(activations.x.row(t)[i]) > scale * static_cast<double>(thresholds.row(k)[i]))
              sum += levels[static_cast<size_t>(k) + 1] - levels[static_cast<size_t>(k)];
        }
      EXPECT_NEAR(sum / (3000 * 60), bits, 0.02) << bits;
    }
}

TEST(GradingRule, EnergySharesAreTheEnergyServedAtEachLevel) {
  const Activations activations(3000, 40);
  for (const std::vector<Level>& levels : kLevelSets) {
    const MatrixBuffer<float> thresholds =
        unit_thresholds(random_errors(static_cast<int64_t>(levels.size()), 40, 6).view(), levels);
    const double scale = solve_threshold_scale(activations.histogram, thresholds.view(), levels, 3.0);
    const MatrixBuffer<float> shares = energy_shares(activations.histogram, thresholds.view(), scale, levels);
    ASSERT_EQ(shares.rows(), static_cast<int64_t>(levels.size()));
    for (int64_t i = 0; i < 40; ++i) {
      std::vector<double> energy(levels.size(), 0.0);
      for (int64_t t = 0; t < 3000; ++t) {
        const double x = std::abs(static_cast<double>(activations.x.row(t)[i]));
        size_t at = 0;
        while (at + 1 < levels.size() &&
               x > scale * static_cast<double>(thresholds.row(static_cast<int64_t>(at))[i]))
          ++at;
        energy[at] += x * x;
      }
      if (levels[0] == 0) energy[0] = 0;
      double total = 0;
      for (const double each : energy) total += each;
      if (total == 0) energy[levels[0] == 0 ? 1 : 0] = total = 1;  // never read: the first level above 0
      double sum = 0;
      for (size_t k = 0; k < levels.size(); ++k) {
        EXPECT_NEAR(shares.row(static_cast<int64_t>(k))[i], energy[k] / total, 0.05) << i << " " << k;
        sum += static_cast<double>(shares.row(static_cast<int64_t>(k))[i]);
      }
      EXPECT_NEAR(sum, 1.0, 1e-5);
    }
  }
}

TEST(GradingRule, LevelErrorsAreThoseOfTheColumns) {
  NestedShape shape;
  shape.out = 9;
  shape.in = 5;
  shape.levels = {0, 3, 8};
  MatrixBuffer<uint8_t> codes(9, 5);
  for (int64_t i = 0; i < codes.size(); ++i) codes.data()[i] = static_cast<uint8_t>(37 * i);
  const std::vector<uint16_t> scales(5, to_half(0.01f)), minima(5, to_half(-1.0f));
  const NestedLinear layer(shape, codes, scales, minima, {});
  const MatrixBuffer<float> weight = testing::random_matrix(9, 5, 7);
  const MatrixBuffer<double> errors = level_errors(weight, layer, shape.levels);
  for (size_t k = 0; k < shape.levels.size(); ++k) {
    const MatrixBuffer<float> decoded = layer.dequantize(shape.levels[k]);
    for (int64_t i = 0; i < 5; ++i) {
      double expected = 0;
      for (int64_t row = 0; row < 9; ++row)
        expected +=
            std::pow(static_cast<double>(weight.row(row)[i]) - static_cast<double>(decoded.row(row)[i]), 2);
      EXPECT_NEAR(errors.row(static_cast<int64_t>(k))[i], expected, 1e-12);
    }
  }
}

}  // namespace
}  // namespace grinqh
