// Clusters on a line against the dynamic program over every interval, in O(k n^2).
#include "quant/weighted_kmeans.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "numbers.h"

namespace grinqh {
namespace {

struct Row {
  const char* name;
  std::vector<float> values, weights;
};

void PrintTo(const Row& row, std::ostream* out) { *out << row.name; }

constexpr int kSize = 220;

std::vector<float> gaussian(uint64_t seed) { return testing::random_vector(kSize, seed, 0.02); }

// Ratios of normal numbers: Cauchy, with values thousands of times the typical one.
std::vector<float> heavy_tailed(uint64_t seed) {
  std::vector<float> values = gaussian(seed);
  const std::vector<float> divisors = testing::random_vector(kSize, seed + 1);
  for (size_t i = 0; i < values.size(); ++i) values[i] /= divisors[i];
  return values;
}

// Squared gradients of very different sizes.
std::vector<float> squares(uint64_t seed) {
  std::vector<float> weights = testing::random_vector(kSize, seed, 3.0);
  for (float& w : weights) w = std::exp(w);
  return weights;
}

std::vector<float> with_zeros(std::vector<float> weights) {
  for (size_t i = 0; i < weights.size(); i += 3) weights[i] = 0;
  return weights;
}

std::vector<float> with_ties(std::vector<float> values) {
  for (float& v : values) v = 0.01f * std::round(v / 0.01f);
  return values;
}

std::vector<Row> rows() {
  const std::vector<float> ones(kSize, 1.0f);
  return {{"Gaussian", gaussian(1), squares(2)},
          {"Unweighted", gaussian(3), ones},
          {"FarFromZero",
           [] {
             std::vector<float> values = gaussian(4);
             for (float& v : values) v += 50;
             return values;
           }(),
           squares(5)},
          {"HeavyTailed", heavy_tailed(6), squares(8)},
          {"ZeroWeights", gaussian(9), with_zeros(squares(10))},
          {"Ties", with_ties(gaussian(11)), squares(12)},
          {"TiesOfZeroWeight", with_ties(gaussian(13)), with_zeros(ones)}};
}

// The row sorted by another way, and the error of every interval.
struct Table {
  std::vector<double> v, w;
  std::vector<std::vector<double>> error;  // [begin][end]

  explicit Table(const Row& row) {
    std::vector<size_t> order(row.values.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return row.values[a] < row.values[b]; });
    for (const size_t i : order) v.push_back(row.values[i]), w.push_back(row.weights[i]);
    error.assign(v.size() + 1, std::vector<double>(v.size() + 1, 0.0));
    for (size_t a = 0; a < v.size(); ++a) {
      // West's running mean: no difference of large sums.
      double total = 0, mean = 0, sum = 0;
      for (size_t b = a; b < v.size(); ++b) {
        total += w[b];
        if (w[b] > 0) {
          const double apart = v[b] - mean;
          mean += apart * w[b] / total;
          sum += w[b] * apart * (v[b] - mean);
        }
        error[a][b + 1] = sum;
      }
    }
  }

  double least(size_t k) const {
    std::vector<double> best = error[0];
    for (size_t c = 1; c < k; ++c) {
      std::vector<double> next(best.size(), HUGE_VAL);
      next[0] = 0;
      for (size_t i = 1; i < best.size(); ++i)
        for (size_t m = 0; m <= i; ++m) next[i] = std::min(next[i], best[m] + error[m][i]);
      best = next;
    }
    return best.back();
  }
};

class Clusters : public ::testing::TestWithParam<Row> {
 protected:
  const Row& row() const { return GetParam(); }
  SortedRow sorted_{GetParam().values, GetParam().weights};
  Table table_{GetParam()};
};

TEST_P(Clusters, AreOptimal) {
  for (const int k : {1, 2, 3, 8, 16, 64}) {
    const std::vector<int> borders = optimal_clusters(sorted_, k);
    ASSERT_EQ(borders.size(), static_cast<size_t>(k) + 1);
    EXPECT_EQ(borders.front(), 0);
    EXPECT_EQ(borders.back(), kSize);
    double found = 0, by_row = 0;
    for (int c = 0; c < k; ++c) {
      const int begin = borders[static_cast<size_t>(c)], end = borders[static_cast<size_t>(c) + 1];
      ASSERT_LT(begin, end);
      found += table_.error[static_cast<size_t>(begin)][static_cast<size_t>(end)];
      by_row += sorted_.error(begin, end);
    }
    const double least = table_.least(static_cast<size_t>(k));
    const double all = table_.error[0][kSize];
    EXPECT_LE(found, least * (1 + 1e-9) + 1e-14 * all) << k;
    EXPECT_NEAR(by_row, found, 1e-9 * found + 1e-14 * all) << k;
  }
}

TEST_P(Clusters, EveryValueIsInThatOfTheNearestCentroid) {
  const std::vector<int> borders = optimal_clusters(sorted_, 8);
  for (size_t c = 0; c + 2 < borders.size(); ++c) {
    const double left = sorted_.centroid(borders[c], borders[c + 1]);
    const double right = sorted_.centroid(borders[c + 1], borders[c + 2]);
    const double middle = 0.5 * (left + right);
    EXPECT_LE(sorted_.value(borders[c + 1] - 1), middle + 1e-12);
    EXPECT_GE(sorted_.value(borders[c + 1]), middle - 1e-12);
  }
}

TEST_P(Clusters, ACutIsTheBestThereIs) {
  Rng rng(7);
  for (int trial = 0; trial < 100; ++trial) {
    const auto begin = static_cast<int>(rng.below(kSize));
    const auto end = begin + 1 + static_cast<int>(rng.below(static_cast<uint64_t>(kSize - begin)));
    const auto error = [&](int a, int b) {
      return table_.error[static_cast<size_t>(a)][static_cast<size_t>(b)];
    };
    const int cut = optimal_split(sorted_, begin, end);
    if (sorted_.value(begin) == sorted_.value(end - 1)) {
      EXPECT_EQ(cut, end);
      continue;
    }
    ASSERT_GT(cut, begin);
    ASSERT_LT(cut, end);
    double least = HUGE_VAL;
    for (int m = begin; m <= end; ++m) least = std::min(least, error(begin, m) + error(m, end));
    EXPECT_LE(error(begin, cut) + error(cut, end), least * (1 + 1e-9) + 1e-14 * error(0, kSize));
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, Clusters, ::testing::ValuesIn(rows()),
                         [](const auto& each) { return each.param.name; });

TEST(WeightedKMeans, SortsAndKnowsWhereAValueCameFrom) {
  const std::vector<float> values{0.5f, -2.0f, 0.0f, -0.0f, 7.0f}, weights{1, 1, 1, 1, 2};
  const SortedRow row(values, weights);
  std::vector<int> order;
  for (int place = 0; place < row.size(); ++place) order.push_back(row.index(place));
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3, 0, 4}));
  EXPECT_DOUBLE_EQ(row.centroid(3, 5), 14.5 / 3);
  EXPECT_DOUBLE_EQ(row.centroid(0, 1), -2.0);
}

TEST(WeightedKMeans, WithoutAnyWeightAllWeighTheSame) {
  const std::vector<float> values = gaussian(20);
  const SortedRow none(values, std::vector<float>(kSize, 0.0f)),
      ones(values, std::vector<float>(kSize, 1.0f));
  EXPECT_EQ(optimal_clusters(none, 16), optimal_clusters(ones, 16));
  EXPECT_EQ(optimal_split(none, 10, 90), optimal_split(ones, 10, 90));
  EXPECT_EQ(none.centroid(3, 60), ones.centroid(3, 60));
}

TEST(WeightedKMeans, AValueWithoutWeightMovesNothing) {
  const std::vector<float> values{0, 1, 10, 11, 4}, weights{1, 1, 1, 1, 0};
  const SortedRow row(values, weights);
  // 4 lies nearer to the centroid 0.5 than to 10.5.
  EXPECT_EQ(optimal_clusters(row, 2), (std::vector<int>{0, 3, 5}));
  EXPECT_EQ(optimal_split(row, 0, 5), 3);
  EXPECT_DOUBLE_EQ(row.centroid(0, 3), 0.5);
  EXPECT_DOUBLE_EQ(row.centroid(2, 3), 4.0);
}

TEST(WeightedKMeans, MoreClustersThanValuesLeaveTheLastEmpty) {
  const SortedRow row(std::vector<float>{3, 1}, std::vector<float>{1, 1});
  EXPECT_EQ(optimal_clusters(row, 4), (std::vector<int>{0, 1, 2, 2, 2}));
  const SortedRow empty({}, {});
  EXPECT_EQ(optimal_clusters(empty, 2), (std::vector<int>{0, 0, 0}));
  EXPECT_EQ(optimal_split(row, 1, 1), 1);
}

}  // namespace
}  // namespace grinqh
