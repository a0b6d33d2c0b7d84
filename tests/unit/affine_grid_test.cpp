#include "quant/affine_grid.h"

#include "core/dtype.h"
#include "model_files.h"
#include "numbers.h"

namespace grinqh {
namespace {

AffineGrid fit(int bits, bool symmetric, std::vector<float> group) {
  return AffineGridRule{bits, symmetric}.fit(group, "layer");
}

TEST(AffineGrid, AsymmetricByHand) {
  // From -1 to 2 in three steps of 1, zero at code 1.
  const AffineGrid grid = fit(2, false, {0.5f, -1.0f, 2.0f});
  EXPECT_EQ(from_half(grid.scale), 1.0f);
  EXPECT_EQ(grid.zero, 1);
  const AffineGridRule rule{2, false};
  const std::vector<std::pair<float, int>> codes{{-1.0f, 0}, {-0.6f, 0}, {-0.4f, 1}, {0.0f, 1},
                                                 {1.4f, 2},  {1.6f, 3},  {9.0f, 3},  {-9.0f, 0}};
  for (const auto& [value, code] : codes) EXPECT_EQ(rule.round(value, grid), code) << value;
  EXPECT_EQ(rule.decode(0, grid), -1.0f);
  EXPECT_EQ(rule.decode(3, grid), 2.0f);
}

TEST(AffineGrid, AsymmetricRangesIncludeZero) {
  const AffineGrid above = fit(4, false, {2.0f, 3.0f});
  EXPECT_EQ(above.zero, 0);
  EXPECT_NEAR(from_half(above.scale), 0.2f, 1e-4);
  const AffineGrid below = fit(4, false, {-3.0f, -2.0f});
  EXPECT_EQ(below.zero, 15);
  EXPECT_NEAR(from_half(below.scale), 0.2f, 1e-4);
}

TEST(AffineGrid, SymmetricByHand) {
  // From -3.5 to 3.5 in 15 steps of 7/15, zero at code 8.
  const AffineGrid grid = fit(4, true, {-3.5f, 1.0f});
  EXPECT_EQ(grid.zero, 8);
  EXPECT_NEAR(from_half(grid.scale), 7.0f / 15.0f, 2e-4);
  const AffineGridRule rule{4, true};
  EXPECT_EQ(rule.round(-3.5f, grid), 0);  // 7.5 steps of the float16 scale, a little more
  EXPECT_EQ(rule.round(3.5f, grid), 15);  // 7.5 steps would be 8, beyond the last code
  EXPECT_EQ(rule.round(0.0f, grid), 8);
}

TEST(AffineGrid, CoversGroupsOfEverySizeAndRoundsThemAtOnce) {
  const AffineGridRule rule{4, false};
  for (int64_t size = 1; size < 70; ++size) {
    const std::vector<float> group = testing::random_vector(size, static_cast<uint64_t>(size));
    const float low = std::min(0.0f, std::ranges::min(group)), high = std::max(0.0f, std::ranges::max(group));
    const AffineGrid grid = rule.fit(group, "layer");
    EXPECT_EQ(grid.scale, to_half((high - low) / 15.0f)) << size;
    std::vector<uint8_t> codes(group.size());
    rule.round(group, grid, codes.data());
    for (size_t i = 0; i < group.size(); ++i) {
      const float steps = std::nearbyint(group[i] / from_half(grid.scale)) + static_cast<float>(grid.zero);
      EXPECT_EQ(codes[i], static_cast<int>(std::clamp(steps, 0.0f, 15.0f))) << size << " " << i;
      EXPECT_EQ(codes[i], rule.round(group[i], grid)) << size << " " << i;
    }
  }
}

TEST(AffineGrid, OfZerosDecodesToZeros) {
  for (const bool symmetric : {false, true})
    for (int bits = 2; bits <= 8; ++bits) {
      const AffineGrid grid = fit(bits, symmetric, {0.0f, 0.0f});
      const AffineGridRule rule{bits, symmetric};
      EXPECT_EQ(rule.decode(rule.round(0.0f, grid), grid), 0.0f);
    }
}

TEST(AffineGrid, TinyWeightsKeepAScaleAndHugeOnesAreRefused) {
  const AffineGrid tiny = fit(4, false, {1e-12f, -1e-12f});
  EXPECT_GT(from_half(tiny.scale), 0.0f);
  const AffineGridRule rule{4, false};
  EXPECT_EQ(rule.decode(rule.round(1e-12f, tiny), tiny), 0.0f);
  EXPECT_REFUSED(fit(4, false, {1e7f, 0.0f}), "layer: ", "float16");
}

TEST(AffineGrid, ErrorIsAtMostHalfAStep) {
  const std::vector<float> group = testing::random_vector(500, 1);
  for (const bool symmetric : {false, true})
    for (int bits = 2; bits <= 8; ++bits) {
      const AffineGridRule rule{bits, symmetric};
      const AffineGrid grid = rule.fit(group, "layer");
      const float step = from_half(grid.scale);
      // At the ends of 255 steps a float16 scale is off by up to 255 x 2^-12 steps more.
      for (const float w : group) EXPECT_NEAR(rule.decode(rule.round(w, grid), grid), w, 0.57f * step);
    }
}

double loss(const AffineGridRule& rule, const AffineGrid& grid, const std::vector<float>& group,
            double norm) {
  double sum = 0;
  for (const float w : group)
    sum += std::pow(std::abs(static_cast<double>(w - rule.decode(rule.round(w, grid), grid))), norm);
  return sum;
}

// The grid of the range [low, high] that includes zero, by the formulas.
AffineGrid of_range(int bits, bool symmetric, float low, float high) {
  const float steps = static_cast<float>((1 << bits) - 1);
  const uint16_t scale = to_half((high - low) / steps);
  if (symmetric) return {scale, static_cast<uint8_t>(1 << (bits - 1))};
  return {scale, static_cast<uint8_t>(std::clamp(std::nearbyint(-low / from_half(scale)), 0.0f, steps))};
}

TEST(AffineGrid, ClipSearchFindsTheBestOfAllShares) {
  int better = 0;
  for (const bool symmetric : {false, true})
    for (const int bits : {2, 3, 4})
      for (uint64_t seed = 1; seed <= 8; ++seed) {
        std::vector<float> group = testing::random_vector(37, seed);  // a multiple of no block
        group[5] *= 4;
        AffineGridRule rule{bits, symmetric, {true}};
        if (seed > 4) rule.clip.grid = 20, rule.clip.max_shrink = 0.5, rule.clip.norm = 1.0;
        const AffineGrid found = rule.fit(group, "layer");
        float low = *std::ranges::min_element(group), high = *std::ranges::max_element(group);
        if (symmetric) high = std::max(high, -low), low = -high;
        double least = HUGE_VAL;
        for (int i = 0; i < (seed > 4 ? 10 : 80); ++i) {
          const float share = 1.0f - static_cast<float>(i) / static_cast<float>(seed > 4 ? 20 : 100);
          const AffineGrid grid = of_range(bits, symmetric, share * low, share * high);
          least = std::min(least, loss(rule, grid, group, rule.clip.norm));
        }
        EXPECT_NEAR(loss(rule, found, group, rule.clip.norm), least, 1e-5 * least);
        const AffineGrid full = AffineGridRule{bits, symmetric}.fit(group, "layer");
        const double unclipped = loss(rule, full, group, rule.clip.norm);
        EXPECT_LE(loss(rule, found, group, rule.clip.norm), unclipped);
        better += loss(rule, found, group, rule.clip.norm) < 0.99 * unclipped;
      }
  EXPECT_GT(better, 24) << "of 48 groups with an outlier";
}

TEST(AffineGrid, ClipSearchKeepsARangeThatFits) {
  // Weights on the grid of their range: nothing can be better.
  const std::vector<float> group{-1, 0, 1, 2, 2, 1};
  const AffineGrid grid = AffineGridRule{2, false, {true}}.fit(group, "layer");
  EXPECT_EQ(from_half(grid.scale), 1.0f);
  EXPECT_EQ(grid.zero, 1);
}

}  // namespace
}  // namespace grinqh
