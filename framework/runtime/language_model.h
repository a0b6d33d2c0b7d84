// What evaluators see: a model that turns tokens into logits, float or quantized, and says what it read.
#pragma once

#include "runtime/linear_executor.h"
#include "runtime/scheduled.h"
#include "runtime/transformer.h"

namespace grinqh {

class LanguageModel {
 public:
  virtual ~LanguageModel() = default;
  virtual int64_t hidden() const = 0;
  virtual int64_t vocab() const = 0;
  // Hidden states after the final norm of every row of the batch. [rows, hidden]
  virtual MatrixBuffer<float> features(const Batch& batch) = 0;
  // Logits from rows of features. [rows, vocab]
  virtual void logits(Matrix<const float> features, Matrix<float> logits) const = 0;
  // Weight bits that the rows of the last batch read; null if nothing is quantized.
  virtual const RowTraffic* traffic() const = 0;
  // Weights that traffic() is about.
  virtual int64_t quantized_weights() const = 0;
};

// The checkpoint as it is.
class FloatModel final : public LanguageModel {
 public:
  explicit FloatModel(const Transformer& transformer) : transformer_(transformer) {}
  int64_t hidden() const override { return transformer_.hidden(); }
  int64_t vocab() const override { return transformer_.vocab(); }
  MatrixBuffer<float> features(const Batch& batch) override { return transformer_.run(batch, linears_); }
  void logits(Matrix<const float> features, Matrix<float> logits) const override {
    transformer_.head(features, logits);
  }
  const RowTraffic* traffic() const override { return nullptr; }
  int64_t quantized_weights() const override { return 0; }

 private:
  const Transformer& transformer_;
  FloatLinears linears_;
};

// Quantized layers under a policy (null: everything is read).
class QuantizedLanguageModel final : public LanguageModel {
 public:
  QuantizedLanguageModel(const Transformer& transformer, const QuantizedModel& quantized,
                         const PrecisionPolicy* policy, Level prefill_level = kFullLevel)
      : transformer_(transformer),
        weights_(quantized.weights()),
        linears_(quantized, policy, prefill_level) {}
  int64_t hidden() const override { return transformer_.hidden(); }
  int64_t vocab() const override { return transformer_.vocab(); }
  MatrixBuffer<float> features(const Batch& batch) override {
    return run_scheduled(transformer_, batch, linears_, traffic_);
  }
  void logits(Matrix<const float> features, Matrix<float> logits) const override {
    transformer_.head(features, logits);
  }
  const RowTraffic* traffic() const override { return &traffic_; }
  int64_t quantized_weights() const override { return weights_; }
  LinearExecutor& linears() { return linears_; }

 private:
  const Transformer& transformer_;
  int64_t weights_;
  QuantizedLinears linears_;
  RowTraffic traffic_;
};

}  // namespace grinqh
