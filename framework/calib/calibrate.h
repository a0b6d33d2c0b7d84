// One pass over calibration windows, block by block: collects what quantizer and policy need of every linear
// layer's inputs, and quantizes on the way.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "model/model.h"
#include "quant/quantized_model.h"
#include "quant/quantizer.h"
#include "runtime/transformer.h"

namespace grinqh {

enum class CalibrationInputs : uint8_t {
  quantized,  // a block sees the output of quantized earlier blocks, at their full level
  floating    // ... of float blocks
};

struct CalibrationPlan {
  Matrix<const int32_t> windows;  // [count, context]; not looked at if nothing is needed
  // Statistics of gradients are of the heads of the first windows alone, where there are more or longer ones.
  int64_t gradient_windows = 100, gradient_context = 512;
  CalibrationInputs inputs = CalibrationInputs::quantized;
  // Statistics that the result holds on to, for policies; the quantizer's own are dropped block by block.
  CollectorNames kept;
  std::vector<std::string> layers = {"*"};  // patterns of the layers to quantize
};

// By layer id; layers that share an input share their statistics.
using CalibrationStats = std::map<std::string, std::shared_ptr<const LayerStats>, std::less<>>;

struct Calibrated {
  QuantizedModel model;
  CalibrationStats stats;
};

// Collects and quantizes; with nothing to collect no window is looked at. Errors name the layer.
Calibrated calibrate_and_quantize(const Transformer& transformer, const Quantizer& quantizer,
                                  const CalibrationPlan& plan);

// The seven linear layers of a block, grouped by the input they share.
std::vector<std::vector<const LinearWeights*>> inputs_of(const BlockWeights& block);

}  // namespace grinqh
