// The forward and backward pass on one GPU. The residual stream is float32; within a block activations have
// Context::type(): bfloat16, multiplied on tensor cores with float32 sums, or float32 throughout, the
// reference.
#pragma once

#include <vector>

#include "cuda/attention.h"
#include "cuda/linears.h"
#include "runtime/transformer.h"

namespace grinqh::cuda {

class DeviceTransformer final : public Transformer {
 public:
  DeviceTransformer(const Model& model, const DeviceChoice& device, DType rope_frequencies);

  DeviceChoice device() const override { return context_.choice(); }
  int64_t batch_tokens() const override { return batch_tokens_; }
  int64_t gradient_tokens() const override { return std::min<int64_t>(batch_tokens_, 2048); }

  std::unique_ptr<LinearExecutor> float_linears() const override;
  std::unique_ptr<QuantizedExecutor> quantized_linears(const QuantizedModel& model,
                                                       const PrecisionPolicy* policy,
                                                       Level prefill_level) const override;
  std::unique_ptr<QuantizedExecutor> decoding_linears(const QuantizedModel& model,
                                                      const PrecisionPolicy* policy,
                                                      Level prefill_level) const override {
    return quantized_linears(model, policy, prefill_level);
  }
  std::unique_ptr<LinearExecutor> replaced_linears(
      std::span<const LinearWeights* const> layers,
      std::span<const Matrix<const float>> weights) const override;
  std::unique_ptr<LinearExecutor> rounded_linears(std::span<const LinearWeights* const> layers,
                                                  const ScaledRounding& rounding) const override;

  Tensor embed(const Batch& batch) const override;
  void run_block(int64_t block, const Batch& batch, Activations x, LinearExecutor& linears,
                 KvCache* cache) const override;
  void attention(int64_t block, const Batch& batch, ConstActivations x, LinearExecutor& linears,
                 KvCache* cache, Activations out) const override;
  void mlp(int64_t block, ConstActivations x, LinearExecutor& linears, Activations out) const override;
  void final_norm(Activations x) const override;
  void head(ConstActivations features, Matrix<float> logits) const override;
  void score(const ScoreTask& task, std::span<TokenScore> scores) const override;
  std::vector<double> backward(const Batch& batch, const GradientObserver& observe) const override;

  KvCache make_cache(int64_t sequences, int64_t capacity) const override;
  std::unique_ptr<Decoder> make_decoder(LinearExecutor& linears, const DecodePlan& plan) const override;
  Tensor allocate(int64_t rows, int64_t cols) const override {
    return context_.tensor(rows, cols, Type::f32);
  }
  void copy(ConstActivations from, Activations to) const override { context_.copy(from, to); }
  double squared_distance(ConstActivations a, ConstActivations b) const override;
  bool all_finite(ConstActivations x) const override;
  void synchronize() const override { context_.synchronize(); }
  double time_product(int64_t tokens, int64_t in, int64_t out) const override;

  // For the backward pass.
  const Context& context() const { return context_; }
  const ModelWeights& weights() const { return weights_; }
  struct Norms {
    Array<float> attention, mlp, q, k;  // q, k empty unless the architecture has them
  };
  const Norms& device_norms(int64_t block) const { return norms_[static_cast<size_t>(block)]; }
  const float* final_norm_weights_on_device() const { return final_norm_.data(); }
  float eps() const { return static_cast<float>(model().config.norm_eps); }
  const float* rope_frequencies() const { return frequencies_.data(); }
  AttentionShape shape() const {
    return {attention_shape().heads, attention_shape().kv_heads, attention_shape().head_dim};
  }
  // Of quantized heads that decoders are given (DecodePlan::head).
  GemvStore& head_kernels() const { return head_kernels_; }
  // Positions of the batch's rows, on the device. [rows]
  const int32_t* positions(const Batch& batch) const;
  // f32 logits of features. [rows, vocab]
  void device_logits(ConstActivations features, View logits) const;

 private:
  int64_t plan_batch_tokens() const;
  // q and k by their norms, if there are any, and their positions.
  void turn(int64_t block, const Batch& batch, View q, View k) const;
  // What the heads mixed, and what goes into the down projection. x: the normalized stream.
  struct JointLayer {
    const LinearWeights& weights;
    Activations y;
  };
  // Layers of one input: one product if the executor multiplies by the checkpoint's own weights.
  void run_together(std::initializer_list<JointLayer> layers, ConstActivations x,
                    LinearExecutor& linears) const;
  Tensor mix(int64_t block, const Batch& batch, ConstActivations x, LinearExecutor& linears,
             KvCache* cache) const;
  Tensor activate(int64_t block, ConstActivations x, LinearExecutor& linears) const;
  // stream += x weight^T + bias.
  void add_product(const LinearWeights& linear, ConstActivations x, LinearExecutor& linears,
                   Activations stream) const;
  void attend(const Batch& batch, ConstView q, View k, View v, int64_t block, KvCache* cache, View out) const;

  Context context_;
  ModelWeights weights_;
  std::vector<Norms> norms_;
  Array<float> final_norm_, frequencies_;
  int64_t batch_tokens_ = 0;
  // The last batch's positions: blocks come one after the other with the same.
  mutable std::vector<int32_t> known_positions_;
  mutable Array<int32_t> positions_;
  mutable GemvStore head_kernels_;
};

}  // namespace grinqh::cuda
