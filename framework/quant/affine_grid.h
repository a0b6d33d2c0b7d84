// Affine grids of fixed width, as round-to-nearest methods use them: weight = scale (code - zero), zero an
// integer. The rule is the one of the GPTQ authors' quantizer: asymmetric ranges always include zero.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace grinqh {

struct AffineGrid {
  uint16_t scale;  // float16, as it is stored
  uint8_t zero;
};

struct AffineGridRule {
  int bits;
  bool symmetric;

  int top_code() const { return (1 << bits) - 1; }
  // The grid of a group's range. BadInput naming the layer if the scale does not fit into float16.
  AffineGrid fit(std::span<const float> group, const std::string& layer) const;
  uint8_t round(float value, const AffineGrid& grid) const;
  float decode(uint8_t code, const AffineGrid& grid) const;
};

}  // namespace grinqh
