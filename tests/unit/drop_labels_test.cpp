#include "quant/drop_labels.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/rng.h"

namespace grinqh {
namespace {

MatrixBuffer<double> made_up(int64_t prompts, int64_t drops) {
  MatrixBuffer<double> deficits(prompts, drops);
  Rng rng(5);
  for (int64_t s = 0; s < prompts; ++s) {
    const double harm = rng.uniform();
    for (int64_t d = 0; d < drops; ++d)
      deficits.row(s)[d] = harm * static_cast<double>(drops - d) / static_cast<double>(drops);
  }
  return deficits;
}

TEST(DropLabels, TheEarliestDropThatCostsNoMoreThanAllowed) {
  MatrixBuffer<double> deficits(3, 3);
  const double values[] = {0.3, 0.2, 0.1, -0.1, 0.0, 0.4, 0.5, 0.1, 0.3};
  std::copy_n(values, 9, deficits.data());
  const DropLabels labels(std::move(deficits));
  EXPECT_EQ(labels.of(0, 0.2), 1);
  EXPECT_EQ(labels.of(0, 0.05), 3);
  EXPECT_EQ(labels.of(1, 0.0), 0);
  EXPECT_EQ(labels.of(2, 0.2), 1) << "a later drop that costs more does not matter";
  EXPECT_EQ(labels.histogram(0.1), (std::vector<int64_t>{1, 1, 1, 0}));
}

TEST(DropLabels, TheLeastAllowanceWithinABudget) {
  const MatrixBuffer<double> deficits = made_up(50, 3);
  const DropLabels labels(made_up(50, 3));
  const std::vector<double> bits{3, 3.3, 3.7, 4};
  const auto mean = [&](double allowed) {
    const std::vector<int64_t> counts = labels.histogram(allowed);
    double sum = 0;
    for (size_t c = 0; c < counts.size(); ++c) sum += bits[c] * static_cast<double>(counts[c]) / 50;
    return sum;
  };
  for (const double budget : {3.0, 3.2, 3.5, 3.9}) {
    const double allowed = labels.allowance(bits, budget);
    EXPECT_LE(mean(allowed), budget + 1e-12);
    EXPECT_GT(mean(std::nextafter(allowed, -1)), budget) << "any less reads more";
  }
  const double all = labels.allowance(bits, 2);
  EXPECT_EQ(mean(all), 3) << "a budget below the lowest level: every drop at once";
  EXPECT_EQ(all, *std::max_element(deficits.data(), deficits.data() + deficits.size()));
}

}  // namespace
}  // namespace grinqh
