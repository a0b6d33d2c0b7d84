#include "cuda/moments.h"

#include <gtest/gtest.h>

#include "cuda/gpu.h"
#include "cuda/typed_matrix.h"
#include "quant/log_histogram.h"

namespace grinqh::cuda {
namespace {

using testing::device_array;
using testing::host_vector;
using testing::TypedMatrix;

// Magnitudes below the first bin, in all bins and above the last, of both signs, and zeros.
MatrixBuffer<float> wide_range(Type type, int64_t rows, int64_t cols, uint64_t seed) {
  MatrixBuffer<float> x = testing::random_of(type, rows, cols, seed);
  Rng rng(seed, 1);
  for (int64_t i = 0; i < x.size(); ++i) {
    const auto exponent = static_cast<int>(rng.below(50));
    x.data()[i] = exponent == 0 ? 0.0f : std::ldexp(x.data()[i], exponent - 30);
  }
  return x;
}

static_assert(kHistogramBins == LogHistogram::kBins);

class Moments : public ::testing::TestWithParam<Type> {
 protected:
  void SetUp() override {
    if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  }
};
INSTANTIATE_TEST_SUITE_P(Types, Moments, ::testing::Values(Type::f32, Type::bf16),
                         [](const auto& suite) { return suite.param == Type::f32 ? "f32" : "bf16"; });

struct Extent {
  int64_t rows, cols;
};
constexpr Extent kExtents[] = {{1, 1}, {3, 8}, {517, 33}, {64, 256}, {1030, 257}, {700, 1000}};

TEST_P(Moments, Histograms) {
  for (const auto& [rows, cols] : kExtents) {
    const auto size = static_cast<size_t>(cols * kHistogramBins);
    std::vector<uint32_t> counts(size);
    std::vector<double> sums(size);
    const auto found_counts = device_array(counts);
    const auto found_sums = device_array(sums);
    // Two calls; the signed sums are in the tokens' order and so the same to the last bit.
    for (const int64_t tokens : {rows, 2 * rows + 1}) {
      const MatrixBuffer<float> x = wide_range(GetParam(), tokens, cols, static_cast<uint64_t>(tokens));
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t i = 0; i < cols; ++i) {
          const float value = x.row(t)[i];
          const auto at = static_cast<size_t>(i * kHistogramBins + LogHistogram::bin(std::abs(value)));
          ++counts[at];
          sums[at] += static_cast<double>(value);
        }
      const TypedMatrix on_device(GetParam(), x);
      add_histogram(on_device.view(), found_counts.data(), nullptr);
      add_signed_histogram(on_device.view(), found_sums.data(), nullptr);
    }
    EXPECT_EQ(host_vector(found_counts), counts);
    EXPECT_EQ(host_vector(found_sums), sums);
  }
}

// More tokens of one bin than 16 bits count.
TEST_P(Moments, HistogramOfManyEqualTokens) {
  constexpr int64_t kTokens = 200'003, kCols = 9;
  MatrixBuffer<float> x(kTokens, kCols);
  std::fill_n(x.data(), x.size(), -1.0f);
  const auto counts = device_array(std::vector<uint32_t>(kCols * kHistogramBins));
  add_histogram(TypedMatrix(GetParam(), x).view(), counts.data(), nullptr);
  const std::vector<uint32_t> found = host_vector(counts);
  for (size_t i = 0; i < found.size(); ++i)
    EXPECT_EQ(found[i], i % kHistogramBins == 80 ? kTokens : 0) << i;  // 2^0 is 20 octaves above 2^-20
}

TEST_P(Moments, SumsOverTokens) {
  for (const auto& [rows, cols] : kExtents) {
    const MatrixBuffer<float> x = wide_range(GetParam(), rows, cols, 3);
    const TypedMatrix on_device(GetParam(), x);
    const auto n = static_cast<size_t>(cols);
    // What was there stays: sums are added to, maxima only grow.
    const auto magnitudes = device_array(std::vector<double>(n, 0.5));
    const auto squares = device_array(std::vector<double>(n, 0.25));
    const auto largest = device_array(std::vector<float>(n, 0.125f));
    add_magnitudes(on_device.view(), magnitudes.data(), largest.data(), nullptr);
    add_squares(on_device.view(), squares.data(), nullptr);

    std::vector<double> magnitude(n, 0.5), square(n, 0.25);
    std::vector<float> maximum(n, 0.125f);
    for (int64_t t = 0; t < rows; ++t)
      for (size_t i = 0; i < n; ++i) {
        const auto value = static_cast<double>(x.row(t)[i]);
        magnitude[i] += std::abs(value);
        square[i] += value * value;
        maximum[i] = std::max(maximum[i], std::abs(x.row(t)[i]));
      }
    const std::vector<double> found = host_vector(magnitudes), found_squares = host_vector(squares);
    for (size_t i = 0; i < n; ++i) {
      EXPECT_NEAR(found[i] / magnitude[i], 1.0, 1e-13);
      EXPECT_NEAR(found_squares[i] / square[i], 1.0, 1e-13);
    }
    EXPECT_EQ(host_vector(largest), maximum);

    // Either alone, and the same bits again.
    const auto alone = device_array(std::vector<double>(n, 0.5));
    const auto largest_alone = device_array(std::vector<float>(n));
    add_magnitudes(on_device.view(), alone.data(), nullptr, nullptr);
    add_magnitudes(on_device.view(), nullptr, largest_alone.data(), nullptr);
    EXPECT_EQ(host_vector(alone), found);
    std::vector<float> above = maximum;
    for (size_t i = 0; i < n; ++i) above[i] = std::max(host_vector(largest_alone)[i], 0.125f);
    EXPECT_EQ(above, maximum);
  }
}

TEST_P(Moments, NothingOfNoTokens) {
  const auto sums = device_array(std::vector<double>(8 * kHistogramBins, 1.0));
  const TypedMatrix none(GetParam(), 0, 8);
  add_histogram(none.view(), nullptr, nullptr);
  add_signed_histogram(none.view(), sums.data(), nullptr);
  add_magnitudes(none.view(), sums.data(), nullptr, nullptr);
  add_squares(none.view(), sums.data(), nullptr);
  add_to_double(nullptr, nullptr, 0, nullptr);
  scale_to_float(nullptr, 1, 0, true, nullptr, nullptr);
  EXPECT_EQ(host_vector(sums), std::vector<double>(8 * kHistogramBins, 1.0));
}

class Accumulators : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  }
};

TEST_F(Accumulators, ScaledSums) {
  constexpr double kScale = 1.0 / 3;
  for (const int64_t n : {1, 31, 32, 100, 257}) {
    const std::vector<float> parts[] = {testing::random_vector(n * n, 5), testing::random_vector(n * n, 6)};
    const auto sum = device_array(std::vector<double>(static_cast<size_t>(n * n)));
    for (const auto& part : parts) add_to_double(device_array(part).data(), sum.data(), n * n, nullptr);
    const auto whole = device_array(std::vector<float>(static_cast<size_t>(n * n), NAN));
    const auto mirrored = device_array(std::vector<float>(static_cast<size_t>(n * n), NAN));
    scale_to_float(sum.data(), kScale, n, false, whole.data(), nullptr);
    scale_to_float(sum.data(), kScale, n, true, mirrored.data(), nullptr);
    std::vector<float> expected, expected_mirrored;
    const auto value = [&](int64_t i, int64_t j) {
      const auto at = static_cast<size_t>(i * n + j);
      return static_cast<float>((static_cast<double>(parts[0][at]) + static_cast<double>(parts[1][at])) *
                                kScale);
    };
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) {
        expected.push_back(value(i, j));
        expected_mirrored.push_back(value(std::min(i, j), std::max(i, j)));
      }
    EXPECT_EQ(host_vector(whole), expected);
    EXPECT_EQ(host_vector(mirrored), expected_mirrored);
  }
}

TEST_F(Accumulators, ScaledSquares) {
  constexpr int64_t kCount = 5003;
  const std::vector<float> gradient = testing::random_vector(kCount, 7);
  std::vector<float> expected = testing::random_vector(kCount, 8);
  const auto sum = device_array(expected);
  add_scaled_squares(device_array(gradient).data(), 0.75f, sum.data(), kCount, nullptr);
  for (size_t i = 0; i < expected.size(); ++i)
    expected[i] =
        static_cast<float>(static_cast<double>(expected[i]) +
                           0.5625 * static_cast<double>(gradient[i]) * static_cast<double>(gradient[i]));
  const std::vector<float> found = host_vector(sum);
  for (size_t i = 0; i < found.size(); ++i)
    EXPECT_NEAR(found[i], expected[i], 3e-7 * (1.0 + std::abs(expected[i]))) << i;
}

}  // namespace
}  // namespace grinqh::cuda
