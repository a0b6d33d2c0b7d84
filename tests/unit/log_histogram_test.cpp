#include "quant/log_histogram.h"

#include <gtest/gtest.h>

#include "numbers.h"

namespace grinqh {
namespace {

// By the definition: octave from log2, four bins in it.
int bin_by_logarithm(double magnitude) {
  const auto exponent = static_cast<int>(std::floor(std::log2(magnitude)));
  const auto quarter = static_cast<int>((magnitude / std::exp2(exponent) - 1.0) * 4.0);
  return std::clamp((exponent - LogHistogram::kFirstExponent) * 4 + quarter, 0, LogHistogram::kBins - 1);
}

TEST(LogHistogram, BinsAreQuartersOfOctaves) {
  EXPECT_EQ(LogHistogram::bin(1.0f), 80);
  EXPECT_EQ(LogHistogram::bin(1.2499f), 80);
  EXPECT_EQ(LogHistogram::bin(1.25f), 81);
  EXPECT_EQ(LogHistogram::bin(1.75f), 83);
  EXPECT_EQ(LogHistogram::bin(2.0f), 84);
  EXPECT_EQ(LogHistogram::bin(0.5f), 76);
  Rng rng(1);
  for (int i = 0; i < 10000; ++i) {
    const auto value = static_cast<float>(std::exp2(-24.0 + 40.0 * rng.uniform()));
    ASSERT_EQ(LogHistogram::bin(value), bin_by_logarithm(value)) << value;
  }
}

TEST(LogHistogram, TheEndsTakeEverything) {
  EXPECT_EQ(LogHistogram::bin(0.0f), 0);
  EXPECT_EQ(LogHistogram::bin(1e-38f), 0);
  EXPECT_EQ(LogHistogram::bin(1e-45f), 0);
  EXPECT_EQ(LogHistogram::bin(1e30f), LogHistogram::kBins - 1);
  EXPECT_EQ(LogHistogram::bin(HUGE_VALF), LogHistogram::kBins - 1);
}

TEST(LogHistogram, EdgesBelongToTheBinAbove) {
  EXPECT_EQ(LogHistogram::lower_edge(0), 0.0f);
  EXPECT_EQ(LogHistogram::lower_edge(LogHistogram::kBins), std::exp2(12.0f));
  for (int i = 1; i < LogHistogram::kBins; ++i) {
    const float edge = LogHistogram::lower_edge(i);
    EXPECT_EQ(LogHistogram::bin(edge), i);
    EXPECT_EQ(LogHistogram::bin(std::nextafter(edge, 0.0f)), i - 1);
  }
}

struct Sample {
  explicit Sample(std::vector<float> magnitudes) : values(std::move(magnitudes)) {
    std::vector<float> counts(LogHistogram::kBins);
    for (const float value : values) ++counts[static_cast<size_t>(LogHistogram::bin(value))];
    distribution.emplace_back(counts);
  }
  double share_above(double threshold) const {
    return static_cast<double>(
               std::ranges::count_if(values, [&](float v) { return static_cast<double>(v) > threshold; })) /
           static_cast<double>(values.size());
  }
  double share_between(double low, double high) const { return share_above(low) - share_above(high); }
  const MagnitudeDistribution& found() const { return distribution.front(); }

  std::vector<float> values;
  std::vector<MagnitudeDistribution> distribution;
};

Sample heavy_tailed() {
  std::vector<float> values;
  Rng rng(2);
  for (int i = 0; i < 5000; ++i)
    values.push_back(static_cast<float>(std::abs(rng.normal() * std::exp(rng.normal()))));
  return Sample(std::move(values));
}

TEST(MagnitudeDistribution, ShareAboveIsTheCountToTheBinsMass) {
  const Sample sample = heavy_tailed();
  for (double threshold = 1e-3; threshold < 100; threshold *= 1.037) {
    const int bin = bin_by_logarithm(threshold);
    const double low = LogHistogram::lower_edge(bin), high = LogHistogram::lower_edge(bin + 1);
    const double mass = sample.share_between(std::nextafter(low, 0.0), high);
    const double found = sample.found().share_above(threshold);
    EXPECT_NEAR(found, sample.share_above(threshold), mass + 1e-6) << threshold;
    // Evenly spread within the bin, the error is far below the whole mass.
    EXPECT_NEAR(found, sample.share_above(threshold), 0.25 * mass + 0.003) << threshold;
  }
}

TEST(MagnitudeDistribution, ShareAboveIsExactAtTheEdges) {
  const Sample sample = heavy_tailed();
  for (int bin = 1; bin < LogHistogram::kBins; ++bin) {
    const double edge = LogHistogram::lower_edge(bin);
    EXPECT_NEAR(sample.found().share_above(edge), sample.share_above(std::nextafter(edge, 0.0)), 1e-6);
  }
}

TEST(MagnitudeDistribution, ShareAboveAtTheEnds) {
  const Sample sample = heavy_tailed();
  EXPECT_NEAR(sample.found().share_above(0.0), 1.0, 1e-6);
  EXPECT_NEAR(sample.found().share_above(-1.0), 1.0, 1e-6);
  EXPECT_EQ(sample.found().share_above(4096.0), 0.0);
  EXPECT_EQ(sample.found().share_above(HUGE_VAL), 0.0);
  double last = 1.0;
  for (double threshold = 1e-7; threshold < 1e5; threshold *= 1.1) {
    EXPECT_LE(sample.found().share_above(threshold), last + 1e-12);
    last = sample.found().share_above(threshold);
  }
}

TEST(MagnitudeDistribution, OfNothingIsZeroEverywhere) {
  const std::vector<float> counts(LogHistogram::kBins);
  const MagnitudeDistribution none(counts);
  EXPECT_EQ(none.share_above(0.0), 0.0);
  EXPECT_EQ(none.share_above(1.0), 0.0);
  EXPECT_EQ(none.mean_square(), 0.0);
}

TEST(MagnitudeDistribution, MeanSquareAboveToTheResolutionOfBins) {
  const Sample sample = heavy_tailed();
  double whole = 0;
  for (const float value : sample.values) whole += std::pow(static_cast<double>(value), 2) / 5000;
  EXPECT_NEAR(sample.found().mean_square(), whole, 0.04 * whole);
  for (double threshold = 1e-2; threshold < 50; threshold *= 1.3) {
    double expected = 0;
    for (const float value : sample.values)
      if (static_cast<double>(value) > threshold) expected += std::pow(static_cast<double>(value), 2) / 5000;
    EXPECT_NEAR(sample.found().mean_square_above(threshold), expected, 0.04 * whole) << threshold;
  }
  EXPECT_EQ(sample.found().mean_square_above(5000.0), 0.0);
}

}  // namespace
}  // namespace grinqh
