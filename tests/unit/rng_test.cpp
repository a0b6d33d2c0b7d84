#include "core/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

namespace grinqh {
namespace {

TEST(Rng, IsSplitMix64) {
  // The reference sequence of seed 0. The state starts at mix(seed) ^ mix(stream + gamma), which is 0 here.
  Rng rng(0, 0 - 0x9e3779b97f4a7c15u);
  EXPECT_EQ(rng.bits(), 0xe220a8397b1dcdafu);
  EXPECT_EQ(rng.bits(), 0x6e789e6aa1b965f4u);
  EXPECT_EQ(rng.bits(), 0x06c45d188009454fu);
}

TEST(Rng, SeedsAndStreamsDiffer) {
  std::set<uint64_t> first;
  for (uint64_t seed = 0; seed < 20; ++seed)
    for (uint64_t stream = 0; stream < 20; ++stream) first.insert(Rng(seed, stream).bits());
  EXPECT_EQ(first.size(), 400u);
  EXPECT_EQ(Rng(5, 7).bits(), Rng(5, 7).bits());
}

TEST(Rng, UniformHasItsMoments) {
  Rng rng(1);
  constexpr int kCount = 200000;
  double sum = 0, squares = 0, least = 1, greatest = 0;
  for (int i = 0; i < kCount; ++i) {
    const double u = rng.uniform();
    sum += u, squares += u * u;
    least = std::min(least, u), greatest = std::max(greatest, u);
  }
  EXPECT_NEAR(sum / kCount, 0.5, 0.003);  // 4.6 standard deviations
  EXPECT_NEAR(squares / kCount, 1.0 / 3.0, 0.003);
  EXPECT_GE(least, 0.0);
  EXPECT_LT(greatest, 1.0);
  EXPECT_LT(least, 1e-4);
  EXPECT_GT(greatest, 1 - 1e-4);
}

TEST(Rng, BelowCoversItsRangeEvenly) {
  Rng rng(2);
  std::vector<int> counts(7);
  for (int i = 0; i < 70000; ++i) {
    const uint64_t draw = rng.below(7);
    ASSERT_LT(draw, 7u);
    ++counts[draw];
  }
  for (const int count : counts) EXPECT_NEAR(count, 10000, 450);
}

TEST(Rng, NormalHasItsMoments) {
  Rng rng(3);
  constexpr int kCount = 200000;
  double moments[5] = {};
  for (int i = 0; i < kCount; ++i) {
    const double x = rng.normal();
    ASSERT_TRUE(std::isfinite(x));
    for (int k = 1; k <= 4; ++k) moments[k] += std::pow(x, k) / kCount;
  }
  EXPECT_NEAR(moments[1], 0, 0.011);
  EXPECT_NEAR(moments[2], 1, 0.016);
  EXPECT_NEAR(moments[3], 0, 0.045);
  EXPECT_NEAR(moments[4], 3, 0.12);
}

}  // namespace
}  // namespace grinqh
