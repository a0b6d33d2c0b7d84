// One pass over calibration windows, block by block: collects what quantizer and policy need of every linear
// layer's inputs, and quantizes on the way.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "calib/block_collectors.h"
#include "model/model.h"
#include "quant/quantized_model.h"
#include "quant/quantizer.h"
#include "runtime/transformer.h"

namespace grinqh {

enum class CalibrationInputs : uint8_t {
  quantized,  // a block sees the output of quantized earlier blocks, at their full level
  floating    // ... of float blocks
};

// Statistics of the float model's blocks that are kept from one calibration to the next: they depend on the
// model and the windows alone.
class StatisticsStore {
 public:
  virtual ~StatisticsStore() = default;
  // What is stored of the block; of every layer the same statistics, perhaps none.
  virtual CalibrationStats load(int64_t block) const = 0;
  // Adds to what is stored.
  virtual void save(int64_t block, const CalibrationStats& stats) const = 0;
};

struct CalibrationPlan {
  Matrix<const int32_t> windows;  // [count, context]; not looked at if nothing is needed
  // Statistics of gradients are of the heads of the first windows alone, where there are more or longer ones.
  int64_t gradient_windows = 100, gradient_context = 512;
  CalibrationInputs inputs = CalibrationInputs::quantized;
  // Statistics that the result holds on to, for policies; the quantizer's own are dropped block by block.
  CollectorNames kept;
  // Statistics of the float model that the store is to get as well where a block is run for others.
  CollectorNames also;
  std::vector<std::string> layers = {"*"};          // patterns of the layers to quantize
  const StatisticsStore* store = nullptr;           // of this model and these windows
  const StatisticsStore* gradient_store = nullptr;  // the same for statistics of gradients
};

// What a quantizer had to note of a layer, by name: the damping that a Cholesky factorization ended with,
// say.
using LayerNotes = std::map<std::string, std::map<std::string, double>, std::less<>>;

struct Calibrated {
  QuantizedModel model;
  CalibrationStats stats;
  LayerNotes notes;  // of layers that have any
  // Of each layer: what policies compute from its weights and statistics, for other policies on the same
  // weights.
  std::map<std::string, std::shared_ptr<Derived>, std::less<>> derived;
};

// Collects and quantizes; with nothing to collect no window is looked at. A quantizer that surveys sees the
// float model first. Errors name the layer.
Calibrated calibrate_and_quantize(const Transformer& transformer, Quantizer& quantizer,
                                  const CalibrationPlan& plan);

}  // namespace grinqh
