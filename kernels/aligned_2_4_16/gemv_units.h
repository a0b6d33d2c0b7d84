// A layer of layout "aligned_2_4_16" in the order of gemv_order.h, or one of several parts of its inputs.
#pragma once

#include <vector>

#include "kernels/aligned_2_4_16/gemv_order.h"
#include "quant/quantized_linear.h"

namespace grinqh {

struct Aligned2416Units {
  struct Begin {
    uint32_t runs, unit;  // from the first: runs of Aligned2416Order::kAlignment bytes, units of the order
  };

  Aligned2416Order order;
  std::vector<int16_t> groups;  // [order.slots()]: the group in a slot, -1 if it is empty
  std::vector<Begin> begins;    // [ceil(out / 16) + 1]: of 16 outputs
  bool even = false;            // all of them take begins[1]: nobody has to look the others up
  std::vector<uint8_t> units;

  Aligned2416Units(const QuantizedLinear& layer, int part, int parts);
};

}  // namespace grinqh
