// How codes are found: a pure function from one linear layer and the statistics of its inputs to its weights
// in some layout. Quantizers are plugins (quantizers/, baselines/).
#pragma once

#include <memory>
#include <string>

#include "core/matrix.h"
#include "core/registry.h"
#include "quant/quantized_linear.h"
#include "quant/stats.h"

namespace grinqh {

struct LinearTask {
  std::string id;              // "model.layers.0.self_attn.q_proj"
  Matrix<const float> weight;  // [out, in]
  const LayerStats& stats;     // holds what needs() names
};

class Quantizer {
 public:
  static constexpr std::string_view kind = "quantizer";
  virtual ~Quantizer() = default;
  virtual CollectorNames needs() const { return {}; }
  // Const and without state: called from several threads. Errors say what is wrong with the layer.
  virtual std::unique_ptr<QuantizedLinear> quantize(const LinearTask& task) const = 0;
};

}  // namespace grinqh
