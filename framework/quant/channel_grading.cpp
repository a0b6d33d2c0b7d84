#include "quant/channel_grading.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/parallel.h"
#include "quant/grading.h"

namespace grinqh {

namespace {

// A grading as the inner loop wants it: a row of thresholds for each step, increments.
class Rule {
 public:
  Rule(const ChannelGrading& grading, int64_t in)
      : grading_(grading), thresholds_(grading.thresholds.view()) {
    if (thresholds_.cols != in) {
      spread_ = MatrixBuffer<float>(thresholds_.rows, in);
      for (int64_t j = 0; j < thresholds_.rows; ++j) std::fill_n(spread_.row(j), in, thresholds_(j, 0));
      thresholds_ = spread_.view();
    }
    for (size_t j = 0; j + 1 < grading.levels.size(); ++j)
      increments_.push_back(static_cast<Level>(grading.levels[j + 1] - grading.levels[j]));
  }

  void apply(std::span<const float> x, std::span<Level> chosen) const {
    if (grading_.budget)
      meet(*grading_.budget, x, chosen);
    else
      grade(x, thresholds_, increments_, grading_.levels.front(), chosen);
  }

 private:
  void meet(double mean, std::span<const float> x, std::span<Level> chosen) const {
    constexpr int kSteps = 20;
    const double budget = mean * static_cast<double>(x.size());
    thread_local std::vector<float> scaled;
    scaled.resize(x.size());
    const auto grade_scaled = [&](double exponent) {
      const auto factor = static_cast<float>(std::exp2(exponent));
      std::ranges::transform(x, scaled.begin(), [&](float value) { return value * factor; });
      grade(scaled, thresholds_, increments_, grading_.levels.front(), chosen);
    };
    double low = -12, high = 12;
    for (int step = 0; step < kSteps; ++step) {
      const double middle = 0.5 * (low + high);
      grade_scaled(middle);
      const double read = std::accumulate(chosen.begin(), chosen.end(), int64_t{0});
      (read > budget ? high : low) = middle;
    }
    grade_scaled(low);  // never above the budget
  }

  const ChannelGrading& grading_;
  MatrixBuffer<float> spread_;
  Matrix<const float> thresholds_;
  std::vector<Level> increments_;
};

}  // namespace

void grade_channels(const ChannelGrading& grading, std::span<const Step> steps, Matrix<const float> x,
                    Matrix<Level> levels) {
  constexpr int64_t kTaskTokens = 64;
  const Rule rule(grading, x.cols);
  parallel_for((x.rows + kTaskTokens - 1) / kTaskTokens, [&](int64_t task) {
    for (int64_t t = task * kTaskTokens; t < std::min((task + 1) * kTaskTokens, x.rows); ++t) {
      if (steps[static_cast<size_t>(t)].position < grading.full_tokens)
        std::ranges::fill(levels.row_span(t), grading.full);
      else
        rule.apply(x.row_span(t), levels.row_span(t));
    }
  });
}

}  // namespace grinqh
