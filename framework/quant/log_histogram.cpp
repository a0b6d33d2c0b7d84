#include "quant/log_histogram.h"

#include "core/error.h"

namespace grinqh {

MagnitudeDistribution::MagnitudeDistribution(std::span<const float> counts) {
  check(counts.size() == LogHistogram::kBins, "histogram size");
  double total = 0;
  for (const float count : counts) total += count;
  above_[LogHistogram::kBins] = 0;
  double sum = 0;
  for (int i = LogHistogram::kBins - 1; i >= 0; --i) {
    sum += counts[i];
    above_[i] = total > 0 ? sum / total : 0.0;
  }
}

double MagnitudeDistribution::share_above(double threshold) const {
  if (!(threshold > 0)) return above_[0];
  if (threshold >= LogHistogram::lower_edge(LogHistogram::kBins)) return 0.0;
  const int i = LogHistogram::bin(static_cast<float>(threshold));
  const double low = LogHistogram::lower_edge(i), high = LogHistogram::lower_edge(i + 1);
  const double inside = std::clamp((threshold - low) / (high - low), 0.0, 1.0);
  return above_[i] + (above_[i + 1] - above_[i]) * inside;
}

double MagnitudeDistribution::mean_square_above(double threshold) const {
  double sum = 0;
  for (int i = LogHistogram::kBins - 1; i >= 0; --i) {
    const double low = LogHistogram::lower_edge(i), high = LogHistogram::lower_edge(i + 1);
    if (high <= threshold) break;
    const double from = std::max(low, threshold);
    const double share = (above_[i] - above_[i + 1]) * (high - from) / (high - low);
    sum += share * (from * from + from * high + high * high) / 3.0;
  }
  return sum;
}

}  // namespace grinqh
