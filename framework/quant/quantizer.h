// How codes are found: a pure function from one linear layer and the statistics of its inputs to its weights
// in some layout. Quantizers are plugins (quantizers/, baselines/).
#pragma once

#include <map>
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
  // What the result should say of this layer ("damping": 0.1), by name; null if nobody asks.
  std::map<std::string, double>* notes = nullptr;

  void note(const std::string& name, double value) const {
    if (notes) (*notes)[name] = value;
  }
};

class Quantizer {
 public:
  static constexpr std::string_view kind = "quantizer";
  virtual ~Quantizer() = default;
  virtual CollectorNames needs() const { return {}; }

  // A method that divides a budget among the layers sees them all first: survey() for every covered layer in
  // the order of the model, with statistics of the float model (those that survey_needs() names), then
  // allot() once. Layers are then quantized as always, by what was allotted.
  virtual bool surveys() const { return false; }
  virtual CollectorNames survey_needs() const { return {}; }
  virtual void survey(const LinearTask& task) { (void)task; }
  virtual void allot() {}

  // Layers of a block in the order q, k, v; o; gate, up; down, each group on statistics that see the block's
  // earlier groups quantized; otherwise all on one pass with the block's own weights in float.
  virtual bool sequential_in_block() const { return false; }

  // Const and without state: called from several threads. Errors say what is wrong with the layer.
  virtual std::unique_ptr<QuantizedLinear> quantize(const LinearTask& task) const = 0;
};

}  // namespace grinqh
