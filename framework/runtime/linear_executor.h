// Who multiplies by the weights. The forward pass is one; float, quantized and observed linear layers take
// the same slots in it by this interface.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/tensor.h"
#include "model/model.h"
#include "quant/gemv.h"
#include "quant/kernel_table.h"
#include "quant/precision_policy.h"
#include "quant/quantized_model.h"

namespace grinqh {

class LinearExecutor {
 public:
  virtual ~LinearExecutor() = default;
  // Called once for every batch, before its first layer. steps: one a row.
  virtual void begin_batch(std::span<const Step> steps) { (void)steps; }
  // y = x weight^T + bias. x: [rows, in]; y: [rows, out], overwritten.
  virtual void run(const LinearWeights& linear, ConstActivations x, Activations y) = 0;
  // Whether a layer has other weights here than the checkpoint's.
  virtual bool replaces(std::string_view id) const {
    (void)id;
    return false;
  }
  // Who decides what is read, for those that must ask about whole sequences; null: nobody.
  virtual const PrecisionPolicy* policy() const { return nullptr; }
};

// The checkpoint's weights on the CPU, converted to float32 as they are used.
class FloatLinears final : public LinearExecutor {
 public:
  void run(const LinearWeights& linear, ConstActivations x, Activations y) override;
};

// Weight bits that each row of the last batch read, over all quantized layers.
struct RowTraffic {
  std::vector<int64_t> codes, total;  // [rows]
};

// Quantized layers; layers that were not quantized run in float. Rows in phase prefill read `prefill_level`,
// decoded rows what the policy says.
class QuantizedExecutor : public LinearExecutor {
 public:
  // Of the last batch, complete once its last layer has run; or of the decode step that a decoder counted.
  virtual const RowTraffic& traffic() const = 0;
  // The same layers, from the next batch and the next decoder on.
  virtual void set_policy(const PrecisionPolicy* policy) = 0;
};

// What multiplies batches of a few decoded tokens on the CPU.
enum class DecodeKernels : uint8_t {
  exact,  // the layouts' kernels, as for all other batches: a token gets the same bits alone and among many
  fast    // those of quant/gemv.h where a layout has one: other roundings, and weights are packed once more
};

// The same on the CPU, by the layouts' kernels.
class QuantizedLinears final : public QuantizedExecutor {
 public:
  // A null policy reads everything.
  QuantizedLinears(const QuantizedModel& model, const PrecisionPolicy* policy,
                   Level prefill_level = kFullLevel, DecodeKernels decode_kernels = DecodeKernels::exact);

  void begin_batch(std::span<const Step> steps) override;
  void run(const LinearWeights& linear, ConstActivations x, Activations y) override;

  bool replaces(std::string_view id) const override { return model_.layers.contains(id); }
  const PrecisionPolicy* policy() const override { return policy_; }
  const RowTraffic& traffic() const override { return traffic_; }
  void set_policy(const PrecisionPolicy* policy) override { policy_ = policy; }

 private:
  // Null: the layout's kernel multiplies this batch.
  const Gemv* gemv_of(const QuantizedLinear& layer, const Precision& precision);
  Precision choose(const QuantizedLinear& layer, const std::string& id, Matrix<const float> x);
  void add_offset(std::span<const float> offset, Matrix<float> y);
  void count(const QuantizedLinear& layer, const Precision& precision);

  const QuantizedModel& model_;
  const PrecisionPolicy* policy_;
  Level prefill_level_;
  DecodeKernels decode_kernels_;
  // Made when a layer first decodes, or first does so graded.
  std::map<std::pair<const QuantizedLinear*, bool>, std::unique_ptr<Gemv>> gemvs_;
  FloatLinears float_;
  std::vector<Step> steps_;
  int64_t decoded_rows_ = 0;
  std::vector<Level> scratch_;
  RowTraffic traffic_;
};

// Some layers with other float weights, the rest as in the checkpoint; on the CPU.
class ReplacedLinears final : public LinearExecutor {
 public:
  ReplacedLinears(std::span<const LinearWeights* const> layers, std::span<const Matrix<const float>> weights)
      : layers_(layers), weights_(weights) {}
  void run(const LinearWeights& linear, ConstActivations x, Activations y) override;

 private:
  std::span<const LinearWeights* const> layers_;
  std::span<const Matrix<const float>> weights_;
  FloatLinears float_;
};

// Shows every layer's input to an observer, then passes on.
class ObservedLinears final : public LinearExecutor {
 public:
  using Observer = std::function<void(const LinearWeights&, ConstActivations x)>;
  ObservedLinears(LinearExecutor& inner, Observer observer) : inner_(inner), observer_(std::move(observer)) {}
  void begin_batch(std::span<const Step> steps) override { inner_.begin_batch(steps); }
  void run(const LinearWeights& linear, ConstActivations x, Activations y) override {
    observer_(linear, x);
    inner_.run(linear, x, y);
  }
  const PrecisionPolicy* policy() const override { return inner_.policy(); }

 private:
  LinearExecutor& inner_;
  Observer observer_;
};

}  // namespace grinqh
