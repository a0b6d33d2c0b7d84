// Which bits are read when. Any policy runs on any layout whose levels cover what it asks for.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "core/matrix.h"
#include "core/registry.h"
#include "quant/precision.h"
#include "quant/quantized_linear.h"
#include "quant/quantizer.h"

namespace grinqh {

class PrecisionPolicy {
 public:
  static constexpr std::string_view kind = "policy";
  virtual ~PrecisionPolicy() = default;
  virtual CollectorNames needs() const { return {}; }

  // Called once for every quantized layer, before the first token. BadInput if the layer's levels do not
  // cover what the policy asks for.
  virtual void prepare(const LinearTask& task, const QuantizedLinear& quantized) = 0;

  // Levels for a batch of decoded tokens at the inputs of one layer. x: [tokens, in], steps: [tokens]. A
  // policy that grades channels fills `scratch` [tokens, in] and returns a view of it; one that does not
  // leaves it be.
  virtual Precision choose(const std::string& layer, std::span<const Step> steps, Matrix<const float> x,
                           Matrix<Level> scratch) const = 0;
};

}  // namespace grinqh
