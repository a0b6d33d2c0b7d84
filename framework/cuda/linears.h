// Linear layers on the device: float, replaced and quantized. Products keep to Context::type(); outputs are
// written in the type of y.
#pragma once

#include <map>
#include <vector>

#include "cuda/device_weights.h"
#include "cuda/gemv.h"
#include "cuda/grading.h"
#include "cuda/model_weights.h"
#include "quant/scaled_rounding.h"
#include "runtime/linear_executor.h"

namespace grinqh::cuda {

class DeviceLinears : public LinearExecutor {
 public:
  DeviceLinears(const Context& context, const ModelWeights& weights) : context_(context), weights_(weights) {}
  void run(const LinearWeights& linear, ConstActivations x, Activations y) override {
    run_float(linear, view(x), view(y), 0.0f);
  }
  // Layers of one input, each with its output: one product where weights and outputs lie side by side.
  struct Part {
    const LinearWeights* linear;
    View y;
  };
  void run_together(std::span<const Part> parts, ConstView x);
  // y += x weight^T + bias: the product adds to the residual stream itself.
  void run_onto(const LinearWeights& linear, ConstView x, View y) { run_float(linear, x, y, 1.0f); }

 protected:
  void run_float(const LinearWeights& linear, ConstView x, View y, float beta);
  void multiply(ConstView x, ConstView weight, View y, float beta = 0.0f) const;
  void add_bias_of(const LinearWeights& linear, View y) const;

  const Context& context_;
  const ModelWeights& weights_;
};

class DeviceReplacedLinears final : public DeviceLinears {
 public:
  DeviceReplacedLinears(const Context& context, const ModelWeights& weights,
                        std::span<const LinearWeights* const> layers,
                        std::span<const Matrix<const float>> replacements);
  // With what the layers' own weights round to.
  DeviceReplacedLinears(const Context& context, const ModelWeights& weights,
                        std::span<const LinearWeights* const> layers, const ScaledRounding& rounding);
  void run(const LinearWeights& linear, ConstActivations x, Activations y) override;

 private:
  std::map<const LinearWeights*, OwnedMatrix> replaced_;
};

// What runtime/linear_executor.h QuantizedLinears is for the CPU. Packed weights are uploaded when a layer
// first runs, and decoded for each batch; levels and their counts stay on the device until traffic() asks.
class DeviceQuantizedLinears final : public QuantizedExecutor {
 public:
  DeviceQuantizedLinears(const Context& context, const ModelWeights& weights, const QuantizedModel& model,
                         const PrecisionPolicy* policy, Level prefill_level);
  ~DeviceQuantizedLinears() override;

  void begin_batch(std::span<const Step> steps) override;
  void run(const LinearWeights& linear, ConstActivations x, Activations y) override;
  bool replaces(std::string_view id) const override { return model_.layers.contains(id); }
  const PrecisionPolicy* policy() const override { return policy_; }
  const RowTraffic& traffic() const override;
  void set_policy(const PrecisionPolicy* policy) override { policy_ = policy; }

  // For decoders that multiply by other means.
  const QuantizedModel& model() const { return model_; }
  const DeviceWeights& packed(const LinearWeights& linear);  // of a quantized layer
  GemvStore& kernels() { return kernels_; }
  void set_traffic(const RowTraffic& traffic);

 private:
  struct Layer;    // a quantized layer on the device
  struct Choice;   // what the batch reads of a layer
  class Products;  // by which they are multiplied

  Layer& layer_of(const LinearWeights& linear, const QuantizedLinear& quantized);
  Choice choose(Layer& layer, ConstView x);
  void count(const Layer& layer, const Choice& choice);
  void add_offset(const Layer& layer, View y);

  const Context& context_;
  const ModelWeights& weights_;
  const QuantizedModel& model_;
  const PrecisionPolicy* policy_;
  Level prefill_level_;
  DeviceLinears float_;
  GemvStore kernels_;
  std::vector<Step> steps_;
  int64_t decoded_rows_ = 0;
  Array<uint8_t> decodes_;  // [rows], 1 for a decoded one
  std::map<std::string, std::unique_ptr<Layer>, std::less<>> layers_;

  // Of the batch: counts of levels by layer, still on the device, and what traffic() makes of all.
  struct Counted {
    const QuantizedLinear* layer;
    Array<int32_t> counts;  // [rows, kMaxLevel + 1]
  };
  mutable std::vector<Counted> counted_;
  mutable RowTraffic traffic_;
};

}  // namespace grinqh::cuda
