#include "quant/affine_grid.h"

#include <algorithm>
#include <cmath>

#include "core/dtype.h"
#include "core/error.h"

namespace grinqh {

AffineGrid AffineGridRule::fit(std::span<const float> group, const std::string& layer) const {
  const auto [lowest, highest] = std::ranges::minmax(group);
  float low = std::min(lowest, 0.0f), high = std::max(highest, 0.0f);
  if (symmetric) {
    high = std::max(-low, high);
    low = -high;
  }
  if (low == 0 && high == 0) low = -1, high = 1;
  AffineGrid best = of_range(low, high, layer);
  if (!clip.mse) return best;
  double least = error(group, best, HUGE_VAL);
  const int steps = static_cast<int>(clip.max_shrink * clip.grid);
  for (int i = 1; i < steps; ++i) {
    const float share = 1.0f - static_cast<float>(i) / static_cast<float>(clip.grid);
    const AffineGrid grid = of_range(share * low, share * high, layer);
    const double sum = error(group, grid, least);
    if (sum < least) least = sum, best = grid;
  }
  return best;
}

AffineGrid AffineGridRule::of_range(float low, float high, const std::string& layer) const {
  const float exact = (high - low) / static_cast<float>(top_code());
  // Below the smallest float16 a scale would vanish; such weights all round to zero.
  const uint16_t scale = std::max<uint16_t>(to_half(exact), 1);
  if (!std::isfinite(from_half(scale)))
    bad_input("{}: a scale of {} does not fit into float16", layer, exact);
  if (symmetric) return {scale, static_cast<uint8_t>(1 << (bits - 1))};
  const float zero = std::nearbyint(-low / from_half(scale));
  return {scale, static_cast<uint8_t>(std::clamp(zero, 0.0f, static_cast<float>(top_code())))};
}

double AffineGridRule::error(std::span<const float> group, const AffineGrid& grid, double enough) const {
  constexpr size_t kBlock = 16;  // how often the sum is looked at
  const float scale = from_half(grid.scale), zero = grid.zero, top = static_cast<float>(top_code());
  const auto power = static_cast<float>(clip.norm);
  double sum = 0;
  for (size_t begin = 0; begin < group.size() && sum <= enough; begin += kBlock)
    for (const float value : group.subspan(begin, std::min(kBlock, group.size() - begin))) {
      const float code = std::clamp(std::nearbyint(value / scale) + zero, 0.0f, top);
      sum += static_cast<double>(std::pow(std::abs(value - scale * (code - zero)), power));
    }
  return sum;
}

uint8_t AffineGridRule::round(float value, const AffineGrid& grid) const {
  const float code = std::nearbyint(value / from_half(grid.scale)) + static_cast<float>(grid.zero);
  return static_cast<uint8_t>(std::clamp(code, 0.0f, static_cast<float>(top_code())));
}

float AffineGridRule::decode(uint8_t code, const AffineGrid& grid) const {
  return from_half(grid.scale) * (static_cast<float>(code) - static_cast<float>(grid.zero));
}

}  // namespace grinqh
