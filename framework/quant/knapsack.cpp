#include "quant/knapsack.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"

namespace grinqh {

namespace {

constexpr int64_t kMostUnits = 1 << 17;

int64_t common_divisor(std::span<const std::vector<Choice>> items) {
  int64_t divisor = 0;
  for (const std::vector<Choice>& choices : items)
    for (const Choice& choice : choices) divisor = std::gcd(divisor, choice.cost);
  return std::max<int64_t>(divisor, 1);
}

}  // namespace

std::vector<size_t> choose_within_budget(std::span<const std::vector<Choice>> items, int64_t budget) {
  const int64_t unit = std::max(common_divisor(items), (budget + kMostUnits - 1) / kMostUnits);
  const auto units = static_cast<size_t>(budget / unit) + 1;
  const auto cost_of = [&](const Choice& choice) {
    return static_cast<size_t>((choice.cost + unit - 1) / unit);
  };

  // least[c]: the least loss of the items up to now at a cost of at most c.
  std::vector<double> least(units, 0.0), next(units);
  std::vector<std::vector<uint8_t>> taken(items.size(), std::vector<uint8_t>(units));
  for (size_t n = 0; n < items.size(); ++n) {
    check(items[n].size() <= 256, "choices are numbered in a byte");
    std::ranges::fill(next, HUGE_VAL);
    for (size_t k = 0; k < items[n].size(); ++k)
      for (size_t c = cost_of(items[n][k]); c < units; ++c) {
        const double loss = least[c - cost_of(items[n][k])] + items[n][k].loss;
        if (loss < next[c]) next[c] = loss, taken[n][c] = static_cast<uint8_t>(k);
      }
    least.swap(next);
  }
  check(std::isfinite(least.back()), "a budget covers the cheapest choices");

  std::vector<size_t> chosen(items.size());
  size_t left = units - 1;
  for (size_t n = items.size(); n-- > 0;) {
    chosen[n] = taken[n][left];
    left -= cost_of(items[n][chosen[n]]);
  }
  return chosen;
}

}  // namespace grinqh
