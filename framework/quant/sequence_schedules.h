// Schedules that policies share: a fixed chain, and one that the model's confidence drives.
#pragma once

#include "quant/schedule.h"

namespace grinqh {

class FixedSchedule final : public SequenceSchedule {
 public:
  explicit FixedSchedule(Chain chain) : chain_(std::move(chain)) {}
  Level level(int32_t index, std::span<const float>) override { return chain_.at(index); }

 private:
  Chain chain_;
};

// Drops a level once a prediction's largest probability reaches the mean of the level's first `warmup` scores
// plus `deviations` of their standard deviations; the next level collects scores of its own. Predictions of
// decode steps count, that of the prompt does not.
class ConfidenceSchedule final : public SequenceSchedule {
 public:
  ConfidenceSchedule(std::vector<Level> levels, int64_t warmup, double deviations)
      : levels_(std::move(levels)), warmup_(warmup), deviations_(deviations) {}
  Level level(int32_t index, std::span<const float> logits) override;

 private:
  void watch(double score);

  std::vector<Level> levels_;  // descending
  int64_t warmup_;
  double deviations_;
  size_t current_ = 0;
  std::vector<double> scores_;  // of the current level
};

}  // namespace grinqh
