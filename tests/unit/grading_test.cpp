#include "quant/grading.h"

#include <gtest/gtest.h>

#include "numbers.h"

namespace grinqh {
namespace {

std::vector<Level> by_loop(std::span<const float> x, Matrix<const float> thresholds,
                           std::span<const Level> increments, Level base) {
  std::vector<Level> levels;
  for (size_t i = 0; i < x.size(); ++i) {
    int level = base;
    for (size_t j = 0; j < increments.size(); ++j)
      if (std::abs(x[i]) > thresholds(static_cast<int64_t>(j), static_cast<int64_t>(i)))
        level += increments[j];
    levels.push_back(static_cast<Level>(level));
  }
  return levels;
}

TEST(Grading, IsTheLoop) {
  const std::vector<std::vector<Level>> level_sets{{2, 2, 4}, {1, 1, 1, 1, 1, 1, 2}, {8}, {}};
  for (int64_t count = 1; count <= 70; ++count)
    for (const std::vector<Level>& increments : level_sets) {
      const auto steps = static_cast<int64_t>(increments.size());
      const std::vector<float> x = testing::random_vector(count, static_cast<uint64_t>(count));
      // Rows are wider than the input: the stride must be kept.
      MatrixBuffer<float> storage = testing::random_matrix(steps, count + 3, 5);
      for (int64_t i = 0; i < storage.size(); ++i) storage.data()[i] = std::abs(storage.data()[i]);
      const Matrix<float> thresholds = storage.view().cols_between(0, count);
      std::vector<Level> found(static_cast<size_t>(count) + 4, 99);
      grade(x, thresholds, increments, 1, std::span(found).first(static_cast<size_t>(count)));
      std::vector<Level> expected = by_loop(x, thresholds, increments, 1);
      expected.resize(found.size(), 99);  // nothing is written beyond the end
      ASSERT_EQ(found, expected) << count;
    }
}

TEST(Grading, AChannelAtItsThresholdStaysBelow) {
  constexpr int64_t kCount = 19;  // whole vectors and a rest
  std::vector<float> x(kCount, 0.5f), thresholds(kCount, 0.5f);
  const std::vector<Level> increments{4};
  std::vector<Level> levels(kCount);
  for (size_t i = 0; i < x.size(); i += 2) x[i] = -0.5f;
  grade(x, {thresholds.data(), 1, kCount}, increments, 2, levels);
  EXPECT_EQ(levels, std::vector<Level>(kCount, 2));
  for (float& value : x) value = std::nextafter(value, value > 0 ? 1.0f : -1.0f);
  grade(x, {thresholds.data(), 1, kCount}, increments, 2, levels);
  EXPECT_EQ(levels, std::vector<Level>(kCount, 6));
}

TEST(Grading, InfiniteThresholdsAreNeverPassedButByWhatIsNoNumber) {
  constexpr int64_t kCount = 19;
  std::vector<float> x(kCount, 3e38f), thresholds(kCount, HUGE_VALF);
  const std::vector<Level> increments{4};
  std::vector<Level> levels(kCount);
  grade(x, {thresholds.data(), 1, kCount}, increments, 0, levels);
  EXPECT_EQ(levels, std::vector<Level>(kCount, 0));
  std::ranges::fill(x, NAN);
  grade(x, {thresholds.data(), 1, kCount}, increments, 0, levels);
  EXPECT_EQ(levels, std::vector<Level>(kCount, 4)) << "it must show in the output";
}

}  // namespace
}  // namespace grinqh
