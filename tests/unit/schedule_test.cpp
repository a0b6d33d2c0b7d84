#include "quant/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

#include "quant/sequence_schedules.h"

namespace grinqh {
namespace {

TEST(Chain, DropsAtItsSteps) {
  const Chain chain{{8, 4, 2}, {3, 5}};
  const std::vector<Level> expected{8, 8, 8, 4, 4, 2, 2};
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_EQ(chain.at(static_cast<int64_t>(i)), expected[i]) << i;
  EXPECT_DOUBLE_EQ(chain.mean_bits(0, 7), 36.0 / 7);
  EXPECT_DOUBLE_EQ(chain.mean_bits(1, 6), 26.0 / 5);
  EXPECT_DOUBLE_EQ(chain.mean_bits(4, 4), 4);
}

TEST(Chain, MayPassALevelOver) {
  const Chain chain{{4, 3, 2}, {2, 2}};
  EXPECT_EQ(chain.at(1), 4);
  EXPECT_EQ(chain.at(2), 2);
}

// Two equally likely tokens, or one with odds e^x: a prediction of a known largest probability.
std::vector<float> prediction(double probability) {
  return {static_cast<float>(std::log(probability / (1 - probability))), 0.0f};
}

TEST(ConfidenceSchedule, DropsAtTheFirstScoreBeyondItsWarmUpsThreshold) {
  // Scores 0.6, 0.7, 0.8: mean 0.7, standard deviation 0.1, threshold 0.8 + a little.
  ConfidenceSchedule schedule({4, 3, 2}, 3, 1.05);
  std::vector<Level> levels;
  int32_t index = 0;
  for (const double score : {0.99, 0.6, 0.7, 0.8, 0.79, 0.81, 0.9, 0.9, 0.5, 0.95, 0.99})
    levels.push_back(schedule.level(index++, prediction(score)));
  // The prompt's score (the first) does not count; after the drop at 0.81 three scores warm up again (0.9,
  // 0.9, 0.5: threshold 0.767 + 0.242), which nothing reaches.
  EXPECT_EQ(levels, (std::vector<Level>{4, 4, 4, 4, 4, 3, 3, 3, 3, 3, 3}));
}

TEST(ConfidenceSchedule, GoesDownTheWholeChainAndStays) {
  ConfidenceSchedule schedule({4, 3, 2}, 2, 0);
  std::vector<Level> levels;
  for (int32_t index = 0; index < 9; ++index) levels.push_back(schedule.level(index, prediction(0.7)));
  EXPECT_EQ(levels, (std::vector<Level>{4, 4, 4, 3, 3, 3, 2, 2, 2}));
}

}  // namespace
}  // namespace grinqh
