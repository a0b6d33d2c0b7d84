#include "runtime/ops.h"

#include <gtest/gtest.h>

#include <complex>
#include <numbers>

#include "core/error.h"
#include "numbers.h"

namespace grinqh {
namespace {

using testing::random_matrix;
using testing::random_vector;

double norm_scale(std::span<const float> x, double eps) {
  double squares = 0;
  for (const float value : x) squares += static_cast<double>(value) * static_cast<double>(value);
  return 1.0 / std::sqrt(squares / static_cast<double>(x.size()) + eps);
}

TEST(RmsNorm, IsTheFormula) {
  const MatrixBuffer<float> x = random_matrix(67, 45, 1, 3.0);
  const std::vector<float> weight = random_vector(45, 2);
  MatrixBuffer<double> expected(67, 45);
  for (int64_t t = 0; t < 67; ++t)
    for (int64_t i = 0; i < 45; ++i)
      expected.view()(t, i) = static_cast<double>(x.view()(t, i)) * norm_scale(x.view().row_span(t), 0.5) *
                              static_cast<double>(weight[static_cast<size_t>(i)]);
  MatrixBuffer<float> out(67, 45);
  rms_norm(x, weight, 0.5, out);
  EXPECT_LT(testing::worst_row_error(out.view(), expected.view()), 3e-7);
  rms_norm(x, weight, 0.5, x);  // in place
  EXPECT_EQ(testing::relative_error(x, out), 0.0);
}

TEST(RmsNorm, EpsilonKeepsZerosFinite) {
  auto x = MatrixBuffer<float>::zeroed(1, 9);
  rms_norm(x, std::vector<float>(9, 1.0f), 1e-6, x);
  for (int64_t i = 0; i < 9; ++i) EXPECT_EQ(x.data()[i], 0.0f);
}

TEST(RmsNorm, OfHeadsNormalizesEachForItself) {
  const MatrixBuffer<float> x = random_matrix(5, 4 * 6, 3);
  const std::vector<float> weight = random_vector(6, 4);
  MatrixBuffer<double> expected(5, 24);
  for (int64_t t = 0; t < 5; ++t)
    for (int64_t i = 0; i < 24; ++i)
      expected.view()(t, i) =
          static_cast<double>(x.view()(t, i)) *
          norm_scale(x.view().row_span(t).subspan(static_cast<size_t>(i / 6 * 6), 6), 1e-6) *
          static_cast<double>(weight[static_cast<size_t>(i % 6)]);
  rms_norm_heads(x, weight, 1e-6);
  EXPECT_LT(testing::worst_row_error(x.view(), expected.view()), 3e-7);
}

TEST(Rows, AreAdded) {
  const MatrixBuffer<float> a = random_matrix(40, 7, 1), b = random_matrix(40, 7, 2);
  const std::vector<float> bias = random_vector(7, 3);
  MatrixBuffer<float> sum(40, 7);
  std::copy_n(a.data(), a.size(), sum.data());
  add_rows(sum, b);
  for (int64_t i = 0; i < a.size(); ++i) EXPECT_EQ(sum.data()[i], a.data()[i] + b.data()[i]);
  std::copy_n(a.data(), a.size(), sum.data());
  add_bias(sum, bias);
  for (int64_t i = 0; i < a.size(); ++i)
    EXPECT_EQ(sum.data()[i], a.data()[i] + bias[static_cast<size_t>(i % 7)]);
}

std::vector<Step> steps_at(const std::vector<int32_t>& positions) {
  std::vector<Step> steps;
  for (const int32_t position : positions) steps.push_back({Phase::decode, position, 0});
  return steps;
}

TEST(Rope, TurnsPairsOfAHeadAsComplexNumbers) {
  RopeConfig config;
  config.theta = 10000;
  const int64_t dim = 8, heads = 3;
  const std::vector<int32_t> positions{0, 1, 2, 17, 63, 1000, 4000};
  const auto tokens = static_cast<int64_t>(positions.size());
  MatrixBuffer<float> x = random_matrix(tokens, heads * dim, 1);
  MatrixBuffer<double> expected(tokens, heads * dim);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t i = 0; i < dim / 2; ++i) {
        const double frequency =
            std::pow(config.theta, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
        const std::complex<double> z(x.view()(t, h * dim + i), x.view()(t, h * dim + i + dim / 2));
        const auto turned = z * std::polar(1.0, positions[static_cast<size_t>(t)] * frequency);
        expected.view()(t, h * dim + i) = turned.real();
        expected.view()(t, h * dim + i + dim / 2) = turned.imag();
      }
  Rope(config, dim, DType::f32).apply(x, steps_at(positions));
  for (int64_t t = 0; t < tokens; ++t)
    // Angles are float32: their error grows with the position.
    EXPECT_LT(
        testing::worst_row_error(x.view().rows_between(t, t + 1), expected.view().rows_between(t, t + 1)),
        1e-6 + 1.2e-7 * positions[static_cast<size_t>(t)]);
}

TEST(Rope, ScoresDependOnDistanceAlone) {
  RopeConfig config;
  config.theta = 500000;
  const MatrixBuffer<float> q = random_matrix(1, 64, 1), k = random_matrix(1, 64, 2);
  const auto score = [&](int32_t at_q, int32_t at_k) {
    MatrixBuffer<float> turned(2, 64);
    std::copy_n(q.data(), 64, turned.row(0));
    std::copy_n(k.data(), 64, turned.row(1));
    Rope(config, 64, DType::f32).apply(turned, steps_at({at_q, at_k}));
    return testing::product_nt(turned.view().rows_between(0, 1), turned.view().rows_between(1, 2)).data()[0];
  };
  EXPECT_NEAR(score(10, 3), score(107, 100), 1e-3);
  EXPECT_GT(std::abs(score(10, 3) - score(10, 9)), 0.1);
}

// The frequencies that a Rope turns by, read off a rotation by one position.
std::vector<double> frequencies(const RopeConfig& config, int64_t dim, DType type = DType::f32) {
  auto x = MatrixBuffer<float>::zeroed(1, dim);
  std::fill_n(x.data(), dim / 2, 1.0f);
  Rope(config, dim, type).apply(x, steps_at({1}));
  std::vector<double> result;
  for (int64_t i = 0; i < dim / 2; ++i)
    result.push_back(
        std::atan2(static_cast<double>(x.data()[i + dim / 2]), static_cast<double>(x.data()[i])));
  return result;
}

// Llama 3.1's rule told another way: a frequency that turns `turns` times over the original context keeps its
// value beyond high_freq_factor turns, is divided by the factor below low_freq_factor turns, and between them
// the divisor's reciprocal is linear in the number of turns.
double scaled(double frequency, const RopeConfig& config) {
  const double turns = config.original_context * frequency / (2.0 * std::numbers::pi);
  const double position = std::clamp(
      (turns - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor), 0.0, 1.0);
  return frequency * (1.0 / config.factor + (1.0 - 1.0 / config.factor) * position);
}

TEST(Rope, Llama3ScalingIsTheRule) {
  RopeConfig plain;
  plain.theta = 500000;
  RopeConfig config = plain;
  config.llama3_scaling = true;
  config.factor = 8;
  config.low_freq_factor = 1;
  config.high_freq_factor = 4;
  config.original_context = 8192;
  const std::vector<double> before = frequencies(plain, 128), after = frequencies(config, 128);
  int kept = 0, divided = 0, blended = 0;
  for (size_t i = 0; i < before.size(); ++i) {
    const double expected = scaled(std::pow(500000.0, -static_cast<double>(i) / 64.0), config);
    EXPECT_NEAR(after[i] / expected, 1.0, 2e-6) << i;
    const double ratio = after[i] / before[i];
    if (ratio > 1 - 1e-6)
      ++kept;
    else if (ratio < 0.125 * (1 + 1e-6))
      ++divided;
    else
      ++blended;
  }
  EXPECT_GT(kept, 10);
  EXPECT_GT(divided, 10);
  EXPECT_GT(blended, 2);
}

TEST(Rope, FrequenciesAreKeptInTheTypeThatIsAskedFor) {
  const RopeConfig config;
  const std::vector<double> exact = frequencies(config, 64), rounded = frequencies(config, 64, DType::bf16);
  int differ = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    const auto expected = static_cast<double>(
        rounded_to(DType::bf16, static_cast<float>(std::pow(1e4, -static_cast<double>(i) / 32))));
    EXPECT_NEAR(rounded[i] / expected, 1.0, 1e-6);
    differ += std::abs(rounded[i] / exact[i] - 1.0) > 1e-4;
  }
  EXPECT_GT(differ, 16);
}

TEST(Rope, ShapesThatDoNotFitAreADefect) {
  MatrixBuffer<float> x = random_matrix(2, 12, 1);
  EXPECT_THROW(Rope(RopeConfig(), 8, DType::f32).apply(x, steps_at({0, 1})), std::logic_error);
  EXPECT_THROW(Rope(RopeConfig(), 4, DType::f32).apply(x, steps_at({0})), std::logic_error);
}

}  // namespace
}  // namespace grinqh
