// How the CPU rounds a column whose rounding is data.
#include <algorithm>
#include <vector>

#include "core/half.h"
#include "quant/column_feedback.h"
#include "quant/rounding_rules.h"

namespace grinqh {

namespace {

void fit_group(const ColumnStep& step, const AffineRounding& rounding) {
  const int64_t begin = step.column, end = std::min(begin + rounding.group, step.block.rows);
  std::vector<float> group(static_cast<size_t>(end - begin));
  for (int64_t r = 0; r < step.block.cols; ++r) {
    for (int64_t i = begin; i < end; ++i) group[static_cast<size_t>(i - begin)] = step.block(i, r);
    rounding.grids(step.first_row + r, begin / rounding.group) = rounding.rule.fit(group, rounding.layer);
  }
}

}  // namespace

RoundColumn host_rounding(const AffineRounding& rounding) {
  return [rounding](const ColumnStep& step, std::span<float> error) {
    const int64_t input =
        rounding.inputs.empty() ? step.column : rounding.inputs[static_cast<size_t>(step.column)];
    if (rounding.fit && input % rounding.group == 0) fit_group(step, rounding);
    const AffineGridRule& rule = rounding.rule;
    for (size_t r = 0; r < error.size(); ++r) {
      const int64_t row = step.first_row + static_cast<int64_t>(r);
      const AffineGrid& grid = rounding.grids(row, input / rounding.group);
      const float weight = step.current(step.column, static_cast<int64_t>(r));
      const uint8_t code = rule.round(weight, grid);
      rounding.codes(row, input) = code;
      error[r] = weight - rule.decode(code, grid);
    }
  };
}

RoundColumn host_rounding(const NestedRounding& rounding) {
  return [rounding](const ColumnStep& step, std::span<float> error) {
    const int64_t i = step.column;
    float decoded[kNestedCodes];  // the mean position that a code is served at
    for (int code = 0; code < kNestedCodes; ++code) {
      decoded[code] = 0;
      for (int64_t k = 0; k < rounding.positions.rows; ++k)
        decoded[code] += product_of(rounding.shares(k, i), rounding.positions(k, code));
    }
    for (size_t r = 0; r < error.size(); ++r) {
      const int64_t row = step.first_row + static_cast<int64_t>(r);
      const auto grid = static_cast<size_t>(rounding.grid_of(row, i));
      const float scale = from_half(rounding.scales[grid]), minimum = from_half(rounding.minima[grid]);
      const float weight = step.current(i, static_cast<int64_t>(r));
      const uint8_t code = nested_code(weight, scale, minimum);
      rounding.codes(row, i) = code;
      if (!rounding.compensated.empty()) rounding.compensated(row, i) = weight;
      error[r] = nested_error(weight, scale, minimum, decoded[code]);
    }
  };
}

}  // namespace grinqh
