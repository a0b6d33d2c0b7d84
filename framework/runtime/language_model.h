// What evaluators see: a model that turns tokens into logits, float or quantized, and says what it read.
#pragma once

#include "runtime/linear_executor.h"
#include "runtime/scheduled.h"
#include "runtime/transformer.h"

namespace grinqh {

class LanguageModel {
 public:
  explicit LanguageModel(const Transformer& transformer) : transformer_(transformer) {}
  virtual ~LanguageModel() = default;
  const Transformer& transformer() const { return transformer_; }
  int64_t hidden() const { return transformer_.hidden(); }
  int64_t vocab() const { return transformer_.vocab(); }
  // Hidden states after the final norm of every row of the batch. [rows, hidden]
  virtual Tensor features(const Batch& batch) = 0;
  // Logits from rows of features, on the CPU. [rows, vocab]
  void logits(ConstActivations features, Matrix<float> logits) const { transformer_.head(features, logits); }
  // Weight bits that the rows of the last batch read; null if nothing is quantized.
  virtual const RowTraffic* traffic() const { return nullptr; }
  // Weights that traffic() is about.
  virtual int64_t quantized_weights() const { return 0; }

 private:
  const Transformer& transformer_;
};

// The checkpoint as it is.
class FloatModel final : public LanguageModel {
 public:
  explicit FloatModel(const Transformer& transformer)
      : LanguageModel(transformer), linears_(transformer.float_linears()) {}
  Tensor features(const Batch& batch) override { return transformer().run(batch, *linears_); }

 private:
  std::unique_ptr<LinearExecutor> linears_;
};

// Quantized layers under a policy (null: everything is read).
class QuantizedLanguageModel final : public LanguageModel {
 public:
  QuantizedLanguageModel(const Transformer& transformer, const QuantizedModel& quantized,
                         const PrecisionPolicy* policy, Level prefill_level = kFullLevel)
      : LanguageModel(transformer),
        weights_(quantized.weights()),
        linears_(transformer.quantized_linears(quantized, policy, prefill_level)) {}
  Tensor features(const Batch& batch) override {
    return run_scheduled(transformer(), batch, *linears_, traffic_);
  }
  const RowTraffic* traffic() const override { return &traffic_; }
  int64_t quantized_weights() const override { return weights_; }
  QuantizedExecutor& linears() { return *linears_; }

 private:
  int64_t weights_;
  std::unique_ptr<QuantizedExecutor> linears_;
  RowTraffic traffic_;
};

}  // namespace grinqh
