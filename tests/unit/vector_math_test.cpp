#include "core/vector_math.h"

#include <gtest/gtest.h>

#include "numbers.h"

namespace grinqh {
namespace {

using testing::random_vector;

constexpr float kInfinity = HUGE_VALF;

// Odd lengths: below, at and above the width of a vector, and beyond the block of 1024 elements.
class VectorMath : public ::testing::TestWithParam<int64_t> {};

double log_sum_exp_by_definition(std::span<const float> x) {
  double greatest = -HUGE_VAL, sum = 0;
  for (const float value : x) greatest = std::max(greatest, static_cast<double>(value));
  for (const float value : x) sum += std::exp(static_cast<double>(value) - greatest);
  return greatest + std::log(sum);
}

TEST_P(VectorMath, ExpShifted) {
  const std::vector<float> x = random_vector(GetParam(), 1, 3.0);
  std::vector<float> found = x;
  const double sum = exp_shifted(found, 1.5f);
  double expected_sum = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = std::exp(static_cast<double>(x[i]) - 1.5);
    EXPECT_NEAR(found[i], expected, 1e-6 * expected) << i;
    expected_sum += expected;
  }
  EXPECT_NEAR(sum, expected_sum, 1e-6 * expected_sum);
}

TEST_P(VectorMath, Maximum) {
  std::vector<float> x = random_vector(GetParam(), 2);
  for (const size_t at : {size_t{0}, x.size() / 2, x.size() - 1}) {
    std::vector<float> marked = x;
    marked[at] = 1e9f;
    EXPECT_EQ(maximum(marked), 1e9f);
  }
  for (float& value : x) value = -1e30f;
  EXPECT_EQ(maximum(x), -1e30f);  // padding must not win
}

TEST_P(VectorMath, LogSumExp) {
  for (const double deviation : {0.1, 5.0, 1000.0, 1e30}) {
    const std::vector<float> x = random_vector(GetParam(), 3, deviation);
    const double expected = log_sum_exp_by_definition(x);
    EXPECT_NEAR(log_sum_exp(x), expected, 1e-6 * std::max(1.0, std::abs(expected))) << deviation;
  }
}

TEST_P(VectorMath, LogSumExpWithMaskedElements) {
  std::vector<float> x = random_vector(GetParam(), 4);
  for (size_t i = 1; i < x.size(); i += 2) x[i] = -kInfinity;
  EXPECT_NEAR(log_sum_exp(x), log_sum_exp_by_definition(x), 1e-5);
  for (size_t i = 1; i < x.size(); ++i) x[i] = -kInfinity;
  EXPECT_NEAR(log_sum_exp(x), x[0], 1e-6);
}

TEST_P(VectorMath, ExpectedDifference) {
  const std::vector<float> p = random_vector(GetParam(), 5, 2.0), q = random_vector(GetParam(), 6, 2.0);
  const auto shift = static_cast<float>(log_sum_exp_by_definition(p));
  double expected = 0, size = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double term = std::exp(static_cast<double>(p[i]) - static_cast<double>(shift)) *
                        (static_cast<double>(p[i]) - static_cast<double>(q[i]));
    expected += term;
    size += std::abs(term);
  }
  EXPECT_NEAR(expected_difference(p, q, shift), expected, 1e-6 * size);
  EXPECT_EQ(expected_difference(p, p, shift), 0.0);
}

TEST_P(VectorMath, SiluMultiply) {
  std::vector<float> gate = random_vector(GetParam(), 7, 10.0), up = random_vector(GetParam(), 8);
  gate[0] = -100.0f;  // exp(100) overflows float32: the sigmoid must still vanish
  std::vector<double> expected;
  for (size_t i = 0; i < gate.size(); ++i) {
    const auto g = static_cast<double>(gate[i]);
    expected.push_back(g / (1.0 + std::exp(-g)) * static_cast<double>(up[i]));
  }
  std::vector<float> out(gate.size());
  silu_multiply(gate, up, out);
  for (size_t i = 0; i < gate.size(); ++i)
    EXPECT_NEAR(out[i], expected[i], 1e-6 * std::abs(expected[i]) + 1e-30) << i;
  std::vector<float> in_place = gate;
  silu_multiply(in_place, up, in_place);
  EXPECT_EQ(in_place, out);
  in_place = up;
  silu_multiply(gate, in_place, in_place);
  EXPECT_EQ(in_place, out);
}

TEST_P(VectorMath, SiluMultiplyBackward) {
  std::vector<float> gate = random_vector(GetParam(), 11, 10.0), up = random_vector(GetParam(), 12);
  const std::vector<float> gradient = random_vector(GetParam(), 13);
  gate[0] = -100.0f;
  const auto silu = [](double g) { return g / (1.0 + std::exp(-g)); };
  std::vector<double> gate_expected, up_expected;
  for (size_t i = 0; i < gate.size(); ++i) {
    constexpr double kStep = 1e-5;
    const auto g = static_cast<double>(gate[i]), out = static_cast<double>(gradient[i]);
    gate_expected.push_back(out * static_cast<double>(up[i]) * (silu(g + kStep) - silu(g - kStep)) /
                            (2 * kStep));
    up_expected.push_back(out * silu(g));
  }
  silu_multiply_backward(gate, up, gradient);
  for (size_t i = 0; i < gate.size(); ++i) {
    EXPECT_NEAR(gate[i], gate_expected[i], 1e-6 * std::abs(gate_expected[i]) + 1e-7) << i;
    EXPECT_NEAR(up[i], up_expected[i], 1e-6 * std::abs(up_expected[i]) + 1e-30) << i;
  }
}

TEST_P(VectorMath, SumOfSquares) {
  const std::vector<float> x = random_vector(GetParam(), 9);
  double expected = 0;
  for (const float value : x) expected += static_cast<double>(value) * static_cast<double>(value);
  EXPECT_NEAR(sum_of_squares(x), expected, 1e-6 * expected);
}

INSTANTIATE_TEST_SUITE_P(Lengths, VectorMath,
                         ::testing::Values(1, 2, 3, 7, 8, 9, 15, 17, 33, 1023, 1024, 1025, 4099));

TEST(VectorMathBlocks, SumsDoNotDriftOverManyElements) {
  // In float32 alone a sum of 2^22 equal terms of 0.1 is off by more than 1e-3.
  const std::vector<float> x(size_t{1} << 22, std::log(0.1f));
  EXPECT_NEAR(log_sum_exp(x), std::log(0.1 * 4194304.0), 1e-6);
}

}  // namespace
}  // namespace grinqh
