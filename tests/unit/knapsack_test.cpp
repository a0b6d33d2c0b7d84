#include "quant/knapsack.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/rng.h"

namespace grinqh {
namespace {

using Items = std::vector<std::vector<Choice>>;

struct Sum {
  int64_t cost = 0;
  double loss = 0;
};

Sum sum_of(const Items& items, const std::vector<size_t>& chosen) {
  Sum sum;
  for (size_t n = 0; n < items.size(); ++n) {
    sum.cost += items[n][chosen[n]].cost;
    sum.loss += items[n][chosen[n]].loss;
  }
  return sum;
}

// The least loss, by trying all combinations.
double least_loss(const Items& items, int64_t budget) {
  std::vector<size_t> chosen(items.size(), 0);
  double least = HUGE_VAL;
  for (;;) {
    const Sum sum = sum_of(items, chosen);
    if (sum.cost <= budget) least = std::min(least, sum.loss);
    size_t n = 0;
    while (n < items.size() && ++chosen[n] == items[n].size()) chosen[n++] = 0;
    if (n == items.size()) return least;
  }
}

// Layers of a few sizes; a loss falls with the width, roughly as rounding errors do.
Items random_layers(Rng& rng, size_t count) {
  Items items(count);
  for (auto& choices : items) {
    const auto size = static_cast<int64_t>(3 * (1 + rng.below(5)));
    const double weight = std::exp(rng.normal());
    for (const int bits : {2, 3, 4, 8})
      choices.push_back({bits * size, weight * std::exp2(-2.0 * bits) * (0.5 + rng.uniform())});
  }
  return items;
}

TEST(Knapsack, EqualsBruteForce) {
  Rng rng(1);
  for (int trial = 0; trial < 40; ++trial) {
    const Items items = random_layers(rng, 1 + rng.below(6));
    int64_t size = 0;
    for (const auto& choices : items) size += choices[0].cost / 2;
    for (const double bits : {2.0, 2.3, 3.0, 3.7, 6.1, 8.0}) {
      const auto budget = static_cast<int64_t>(bits * static_cast<double>(size));
      const Sum found = sum_of(items, choose_within_budget(items, budget));
      EXPECT_LE(found.cost, budget);
      EXPECT_NEAR(found.loss, least_loss(items, budget), 1e-12) << trial << " " << bits;
    }
  }
}

TEST(Knapsack, TakesTheCheapestOrTheBestAtTheEnds) {
  const Items items = {{{20, 5.0}, {30, 1.0}}, {{10, 2.0}, {40, 1.0}}};
  EXPECT_EQ(choose_within_budget(items, 30), (std::vector<size_t>{0, 0}));
  EXPECT_EQ(choose_within_budget(items, 39), (std::vector<size_t>{0, 0}));
  EXPECT_EQ(choose_within_budget(items, 40), (std::vector<size_t>{1, 0}));
  EXPECT_EQ(choose_within_budget(items, 1000), (std::vector<size_t>{1, 1}));
}

TEST(Knapsack, AmongEqualsTakesTheFirst) {
  const Items items = {{{1, 1.0}, {2, 1.0}, {3, 1.0}}};
  EXPECT_EQ(choose_within_budget(items, 3), (std::vector<size_t>{0}));
}

// Sizes without a common divisor and millions of units: costs are rounded up, the budget holds and is used.
TEST(Knapsack, CoarseUnitsKeepTheBudget) {
  Rng rng(2);
  Items items;
  int64_t size = 0;
  for (int n = 0; n < 150; ++n) {
    const auto layer = static_cast<int64_t>(10'000'019 + rng.below(1'000'000));
    size += layer;
    const double weight = std::exp(rng.normal());
    items.push_back({});
    for (const int bits : {2, 3, 4}) items.back().push_back({bits * layer, weight * std::exp2(-2.0 * bits)});
  }
  const auto budget = static_cast<int64_t>(2.9 * static_cast<double>(size));
  const Sum found = sum_of(items, choose_within_budget(items, budget));
  EXPECT_LE(found.cost, budget);
  EXPECT_GT(static_cast<double>(found.cost) / static_cast<double>(size), 2.9 - 0.01);
}

TEST(Knapsack, ABudgetBelowTheCheapestChoicesIsADefect) {
  const Items items = {{{2, 1.0}}};
  EXPECT_THROW(choose_within_budget(items, 1), std::logic_error);
}

}  // namespace
}  // namespace grinqh
