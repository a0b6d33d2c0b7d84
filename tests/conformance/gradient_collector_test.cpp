// What every registered collector of gradients must do.
#include <gtest/gtest.h>

#include "core/registry.h"
#include "numbers.h"
#include "quant/gradient_collector.h"
#include "quant/stats.h"

namespace grinqh {
namespace {

// Layers wider than any tile, of sizes that are multiples of none.
class EveryGradientCollector : public ::testing::TestWithParam<std::string> {
 protected:
  static constexpr int64_t kTokens = 40, kSequence = 20, kIn = 301, kOut = 270;

  static PlainVector<float> collect(Matrix<const float> x, Matrix<const float> dy) {
    const auto collector = Registry<GradientCollector>::get().make(GetParam());
    for (int64_t t = 0; t < kTokens; t += kSequence)
      collector->observe(x.rows_between(t, t + kSequence), dy.rows_between(t, t + kSequence));
    return collector->finish();
  }

  const MatrixBuffer<float> x_ = testing::random_matrix(kTokens, kIn, 1);
  const MatrixBuffer<float> dy_ = testing::random_matrix(kTokens, kOut, 2);
};

TEST_P(EveryGradientCollector, DoesNotDependOnThreads) {
  const PlainVector<float> expected = collect(x_, dy_);
  ASSERT_FALSE(expected.empty());
  for (const int count : {1, 3}) {
    const testing::Threads threads(count);
    EXPECT_EQ(collect(x_, dy_), expected);
  }
}

TEST_P(EveryGradientCollector, SeesViewsAsTheyAre) {
  const auto widened = [](const MatrixBuffer<float>& x) {
    MatrixBuffer<float> wide(x.rows(), x.cols() + 3);
    std::fill_n(wide.data(), wide.size(), NAN);
    for (int64_t t = 0; t < x.rows(); ++t) std::copy_n(x.row(t), x.cols(), wide.row(t) + 1);
    return wide;
  };
  const MatrixBuffer<float> x = widened(x_), dy = widened(dy_);
  const PlainVector<float> found =
      collect(x.view().cols_between(1, kIn + 1), dy.view().cols_between(1, kOut + 1));
  const PlainVector<float> expected = collect(x_, dy_);
  ASSERT_EQ(found.size(), expected.size());
  EXPECT_LT(testing::relative_error(std::span<const float>(found), std::span<const float>(expected)), 1e-6);
}

TEST_P(EveryGradientCollector, HasANameThatNoCollectorOfInputsHas) {
  EXPECT_FALSE(Registry<Collector>::get().contains(GetParam()));
  EXPECT_FALSE(Registry<DriftCollector>::get().contains(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Registered, EveryGradientCollector,
                         ::testing::ValuesIn(Registry<GradientCollector>::get().names()),
                         [](const auto& each) { return each.param; });

}  // namespace
}  // namespace grinqh
