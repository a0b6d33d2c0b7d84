// What every registered collector must do.
#include <gtest/gtest.h>

#include "core/registry.h"
#include "numbers.h"
#include "quant/stats.h"

namespace grinqh {
namespace {

class EveryCollector : public ::testing::TestWithParam<std::string> {
 protected:
  static constexpr int64_t kTokens = 50, kIn = 70;

  PlainVector<float> collect(int64_t batch) const {
    const auto collector = Registry<Collector>::get().make(GetParam());
    for (int64_t t = 0; t < kTokens; t += batch)
      collector->observe(x_.view().rows_between(t, std::min(t + batch, kTokens)));
    return collector->finish();
  }

  MatrixBuffer<float> x_ = testing::random_matrix(kTokens, kIn, 1);
};

TEST_P(EveryCollector, DoesNotDependOnHowTokensAreCut) {
  const PlainVector<float> whole = collect(kTokens), cut = collect(7);
  ASSERT_EQ(cut.size(), whole.size());
  ASSERT_FALSE(whole.empty());
  // Sums may be rounded differently.
  EXPECT_LT(testing::relative_error(std::span<const float>(cut), std::span<const float>(whole)), 1e-6);
}

TEST_P(EveryCollector, DoesNotDependOnThreads) {
  const PlainVector<float> expected = collect(kTokens);
  for (const int count : {1, 3}) {
    const testing::Threads threads(count);
    EXPECT_EQ(collect(kTokens), expected);
  }
}

TEST_P(EveryCollector, SeesAViewAsItIs) {
  MatrixBuffer<float> wide(kTokens, kIn + 3);
  std::fill_n(wide.data(), wide.size(), NAN);
  for (int64_t t = 0; t < kTokens; ++t) std::copy_n(x_.row(t), kIn, wide.row(t) + 1);
  const auto collector = Registry<Collector>::get().make(GetParam());
  collector->observe(wide.view().cols_between(1, kIn + 1));
  EXPECT_EQ(collector->finish(), collect(kTokens));
}

TEST_P(EveryCollector, MergesPartsIntoTheWhole) {
  constexpr int64_t kFirst = 32;
  const auto part = [&](int64_t begin, int64_t end) {
    const auto collector = Registry<Collector>::get().make(GetParam());
    collector->observe(x_.view().rows_between(begin, end));
    return collector->finish();
  };
  const PlainVector<float> first = part(0, kFirst), second = part(kFirst, kTokens), whole = collect(kTokens);
  const PlainVector<float> merged = merge_values(Registry<Collector>::get().make(GetParam())->merge(),
                                                 {first, kFirst}, {second, kTokens - kFirst});
  ASSERT_EQ(merged.size(), whole.size());
  EXPECT_LT(testing::relative_error(std::span<const float>(merged), std::span<const float>(whole)), 1e-6);
}

INSTANTIATE_TEST_SUITE_P(Registered, EveryCollector, ::testing::ValuesIn(Registry<Collector>::get().names()),
                         [](const auto& each) { return each.param; });

}  // namespace
}  // namespace grinqh
