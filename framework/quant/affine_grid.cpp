#include "quant/affine_grid.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace grinqh {

namespace {

// The least and the greatest weight, several at a time (the sign of a zero may be either).
WeightRange range_of(std::span<const float> group) {
  constexpr size_t kLanes = 16;
  float low[kLanes], high[kLanes];
  std::fill_n(low, kLanes, group[0]);
  std::fill_n(high, kLanes, group[0]);
  const size_t whole = group.size() / kLanes * kLanes;
  for (size_t begin = 0; begin < whole; begin += kLanes)
    for (size_t k = 0; k < kLanes; ++k) {
      const float weight = group[begin + k];
      low[k] = weight < low[k] ? weight : low[k];
      high[k] = high[k] < weight ? weight : high[k];
    }
  WeightRange range{*std::min_element(low, low + kLanes), *std::max_element(high, high + kLanes)};
  for (const float weight : group.subspan(whole)) {
    range.low = std::min(range.low, weight);
    range.high = std::max(range.high, weight);
  }
  return range;
}

}  // namespace

AffineRule AffineGridRule::plain() const {
  const int shares = clip.mse ? static_cast<int>(clip.max_shrink * clip.grid) : 1;
  return {bits, symmetric, std::max(shares, 1), clip.grid, static_cast<float>(clip.norm)};
}

AffineGrid AffineGridRule::fit(std::span<const float> group, const std::string& layer) const {
  const AffineRule rule = plain();
  const auto [lowest, highest] = range_of(group);
  const WeightRange range = covered_range(lowest, highest, symmetric);
  AffineGrid best = grid_of_range(range, rule);
  if (!is_finite_half(best.scale)) refuse_scale(layer, exact_scale(range, rule));
  if (rule.shares == 1) return best;
  const auto size = static_cast<int64_t>(group.size());
  double least = affine_error(group.data(), size, best, rule, HUGE_VAL);
  for (int step = 1; step < rule.shares; ++step) {
    const AffineGrid grid = grid_of_range(share_of_range(range, step, rule), rule);
    const double sum = affine_error(group.data(), size, grid, rule, least);
    if (sum < least) least = sum, best = grid;
  }
  return best;
}

void AffineGridRule::round(std::span<const float> group, const AffineGrid& grid, uint8_t* codes) const {
  const float scale = from_half(grid.scale), zero = grid.zero, top = static_cast<float>(top_code());
  for (size_t i = 0; i < group.size(); ++i)
    codes[i] = static_cast<uint8_t>(static_cast<int>(affine_code(group[i], scale, zero, top)));
}

void refuse_scale(const std::string& layer, float scale) {
  bad_input("{}: a scale of {} does not fit into float16", layer, scale);
}

}  // namespace grinqh
