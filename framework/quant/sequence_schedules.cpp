#include "quant/sequence_schedules.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace grinqh {

namespace {

double largest_probability(std::span<const float> logits) {
  const float top = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit - top));
  return 1 / sum;
}

}  // namespace

Level ConfidenceSchedule::level(int32_t index, std::span<const float> logits) {
  if (index > 0 && current_ + 1 < levels_.size()) watch(largest_probability(logits));
  return levels_[current_];
}

void ConfidenceSchedule::watch(double score) {
  if (static_cast<int64_t>(scores_.size()) < warmup_) {
    scores_.push_back(score);
    return;
  }
  const auto count = static_cast<double>(scores_.size());
  const double mean = std::accumulate(scores_.begin(), scores_.end(), 0.0) / count;
  double squares = 0;
  for (const double each : scores_) squares += (each - mean) * (each - mean);
  if (score < mean + deviations_ * std::sqrt(squares / (count - 1))) return;
  ++current_;
  scores_.clear();
}

}  // namespace grinqh
