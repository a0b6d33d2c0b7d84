// Who multiplies by the weights. The forward pass is one; float, quantized and observed linear layers take
// the same slots in it by this interface.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/matrix.h"
#include "model/model.h"
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
  virtual void run(const LinearWeights& linear, Matrix<const float> x, Matrix<float> y) = 0;
  // Who decides what is read, for those that must ask about whole sequences; null: nobody.
  virtual const PrecisionPolicy* policy() const { return nullptr; }
};

// The checkpoint's weights, converted to float32 as they are used.
class FloatLinears final : public LinearExecutor {
 public:
  void run(const LinearWeights& linear, Matrix<const float> x, Matrix<float> y) override;
};

// Weight bits that each row of the last batch read, over all quantized layers.
struct RowTraffic {
  std::vector<int64_t> codes, total;  // [rows]
};

// Quantized layers by their kernels; layers that were not quantized run in float. Rows in phase prefill read
// `prefill_level`, decoded rows what the policy says.
class QuantizedLinears final : public LinearExecutor {
 public:
  // A null policy reads everything.
  QuantizedLinears(const QuantizedModel& model, const PrecisionPolicy* policy,
                   Level prefill_level = kFullLevel);

  void begin_batch(std::span<const Step> steps) override;
  void run(const LinearWeights& linear, Matrix<const float> x, Matrix<float> y) override;

  const PrecisionPolicy* policy() const override { return policy_; }
  const RowTraffic& traffic() const { return traffic_; }

 private:
  Precision choose(const QuantizedLinear& layer, const std::string& id, Matrix<const float> x);
  void add_offset(std::span<const float> offset, Matrix<float> y);
  void count(const QuantizedLinear& layer, const Precision& precision);

  const QuantizedModel& model_;
  const PrecisionPolicy* policy_;
  Level prefill_level_;
  FloatLinears float_;
  std::vector<Step> steps_;
  int64_t decoded_rows_ = 0;
  std::vector<Level> scratch_;
  RowTraffic traffic_;
};

// Shows every layer's input to an observer, then passes on.
class ObservedLinears final : public LinearExecutor {
 public:
  using Observer = std::function<void(const LinearWeights&, Matrix<const float> x)>;
  ObservedLinears(LinearExecutor& inner, Observer observer) : inner_(inner), observer_(std::move(observer)) {}
  void begin_batch(std::span<const Step> steps) override { inner_.begin_batch(steps); }
  void run(const LinearWeights& linear, Matrix<const float> x, Matrix<float> y) override {
    observer_(linear, x);
    inner_.run(linear, x, y);
  }
  const PrecisionPolicy* policy() const override { return inner_.policy(); }

 private:
  LinearExecutor& inner_;
  Observer observer_;
};

}  // namespace grinqh
