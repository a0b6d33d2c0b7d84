// Affine grids of fixed width, as round-to-nearest methods use them: weight = scale (code - zero), zero an
// integer. The rule itself is quant/rounding_rules.h, which devices share.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "core/options.h"
#include "quant/rounding_rules.h"

namespace grinqh {

// Whether and how a group's range is shrunk for the least sum of |weight - decoded|^norm. The options of
// every method that fits its grids so.
struct ClipSearch {
  bool mse = false;
  int grid = 100;
  double max_shrink = 0.8;
  double norm = 2.4;

  template <class V>
  void fields(V& v) {
    v("mse", mse, "shrink each group's range to where its rounding error is least");
    v("mse_grid", grid, Range{1, 10000}, "ranges are tried in steps of 1 / mse_grid of the full one");
    v("mse_max_shrink", max_shrink, Range{0, 1}, "ranges are shrunk by less than this share");
    v("mse_norm", norm, Range{0.1, 10}, "power of the absolute error that is summed");
  }
};

struct AffineGridRule {
  int bits;
  bool symmetric;
  ClipSearch clip = {};

  int top_code() const { return (1 << bits) - 1; }
  // The same as plain data.
  AffineRule plain() const;
  // The grid of a group's range, or of the best share of it. BadInput naming the layer if the scale does not
  // fit into float16.
  AffineGrid fit(std::span<const float> group, const std::string& layer) const;

  uint8_t round(float value, const AffineGrid& grid) const {
    return static_cast<uint8_t>(
        affine_code(value, from_half(grid.scale), grid.zero, static_cast<float>(top_code())));
  }
  // Of a group's weights, to as many codes.
  void round(std::span<const float> group, const AffineGrid& grid, uint8_t* codes) const;
  float decode(uint8_t code, const AffineGrid& grid) const {
    return affine_value(code, from_half(grid.scale), grid.zero);
  }
};

// BadInput naming the layer and the scale.
[[noreturn]] void refuse_scale(const std::string& layer, float scale);

}  // namespace grinqh
