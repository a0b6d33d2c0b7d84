// The quantized layers of a model by id; layers that are not in it stay float.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "quant/quantized_linear.h"

namespace grinqh {

struct QuantizedModel {
  std::map<std::string, std::shared_ptr<const QuantizedLinear>, std::less<>> layers;

  int64_t weights() const {
    int64_t sum = 0;
    for (const auto& [id, layer] : layers) sum += layer->weights();
    return sum;
  }
  // Mean bits a weight, everything counted.
  double stored_bits() const {
    int64_t bits = 0;
    for (const auto& [id, layer] : layers) bits += layer->stored_bits().total();
    return weights() ? static_cast<double>(bits) / static_cast<double>(weights()) : 0.0;
  }
};

}  // namespace grinqh
