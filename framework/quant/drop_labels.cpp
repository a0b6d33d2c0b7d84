#include "quant/drop_labels.h"

#include <algorithm>

namespace grinqh {

int64_t DropLabels::of(int64_t prompt, double allowed) const {
  int64_t label = 0;
  while (label < deficits_.cols() && deficits_.row(prompt)[label] > allowed) ++label;
  return label;
}

std::vector<int64_t> DropLabels::histogram(double allowed) const {
  std::vector<int64_t> counts(static_cast<size_t>(deficits_.cols()) + 1);
  for (int64_t prompt = 0; prompt < deficits_.rows(); ++prompt)
    ++counts[static_cast<size_t>(of(prompt, allowed))];
  return counts;
}

double DropLabels::allowance(std::span<const double> bits, double mean_bits) const {
  const auto mean = [&](double allowed) {
    double sum = 0;
    for (int64_t prompt = 0; prompt < deficits_.rows(); ++prompt)
      sum += bits[static_cast<size_t>(of(prompt, allowed))];
    return sum / static_cast<double>(deficits_.rows());
  };
  // Bits fall as more is allowed.
  std::vector<double> values(deficits_.data(), deficits_.data() + deficits_.size());
  std::ranges::sort(values);
  const auto enough =
      std::ranges::partition_point(values, [&](double allowed) { return mean(allowed) > mean_bits; });
  return enough == values.end() ? values.back() : *enough;
}

}  // namespace grinqh
