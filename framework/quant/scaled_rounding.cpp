#include "quant/scaled_rounding.h"

#include <algorithm>

#include "core/error.h"
#include "core/parallel.h"
#include "quant/affine_grid.h"

namespace grinqh {

MatrixBuffer<float> round_scaled(Matrix<const float> w, const std::string& layer,
                                 const ScaledRounding& rounding) {
  check(std::ssize(rounding.scales) == w.cols && rounding.group > 0, "a scale for every input, and groups");
  const AffineGridRule rule{rounding.bits, false};
  const auto top = static_cast<float>(rule.top_code());
  const float* factors = rounding.scales.data();
  MatrixBuffer<float> result(w.rows, w.cols);
  parallel_for(w.rows, [&](int64_t r) {
    const float* weights = w.row(r);
    float* row = result.row(r);
    for (int64_t i = 0; i < w.cols; ++i) row[i] = product_of(weights[i], factors[i]);
    for (int64_t begin = 0; begin < w.cols; begin += rounding.group) {
      const int64_t end = std::min(begin + rounding.group, w.cols);
      const AffineGrid grid = rule.fit({row + begin, row + end}, layer);
      const float scale = from_half(grid.scale), zero = grid.zero;
      for (int64_t i = begin; i < end; ++i) row[i] = scaled_rounded(weights[i], factors[i], scale, zero, top);
    }
  });
  return result;
}

}  // namespace grinqh
