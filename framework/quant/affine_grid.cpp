#include "quant/affine_grid.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace grinqh {

AffineRule AffineGridRule::plain() const {
  const int shares = clip.mse ? static_cast<int>(clip.max_shrink * clip.grid) : 1;
  return {bits, symmetric, std::max(shares, 1), clip.grid, static_cast<float>(clip.norm)};
}

AffineGrid AffineGridRule::fit(std::span<const float> group, const std::string& layer) const {
  const AffineRule rule = plain();
  const auto [lowest, highest] = std::ranges::minmax(group);
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

void refuse_scale(const std::string& layer, float scale) {
  bad_input("{}: a scale of {} does not fit into float16", layer, scale);
}

}  // namespace grinqh
