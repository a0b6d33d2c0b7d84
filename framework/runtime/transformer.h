// The forward pass of a decoder-only transformer, for all architectures and all executors of linear layers.
// This class computes on the CPU; a device's own derives from it and overrides what touches activations. All
// else is written once, for activations wherever they are.
#pragma once

#include <memory>
#include <vector>

#include "core/tensor.h"
#include "model/model.h"
#include "quant/scaled_rounding.h"
#include "runtime/attention.h"
#include "runtime/batch.h"
#include "runtime/decoder.h"
#include "runtime/gradient_observer.h"
#include "runtime/linear_executor.h"
#include "runtime/ops.h"
#include "runtime/token_scores.h"

namespace grinqh {

class Transformer {
 public:
  // transformers keeps RoPE's frequencies in float32, but `model.to(torch.bfloat16)` rounds them together
  // with the weights, and they stay rounded: `rope_frequencies` is for comparing with outputs of such a
  // model. The model outlives the transformer.
  explicit Transformer(const Model& model, DType rope_frequencies = DType::f32);
  virtual ~Transformer() = default;

  const Model& model() const { return model_; }
  int64_t hidden() const { return model_.config.hidden; }
  int64_t vocab() const { return model_.config.vocab; }
  int64_t blocks() const { return static_cast<int64_t>(model_.blocks.size()); }
  const AttentionShape& attention_shape() const { return shape_; }
  const Rope& rope() const { return rope_; }

  // Where it computes.
  virtual DeviceChoice device() const { return {}; }
  // Tokens that are worth processing together: enough to keep matrix products efficient, few enough to keep
  // activations small.
  virtual int64_t batch_tokens() const { return 2048; }
  // The same for a backward pass, which keeps what every block began with.
  virtual int64_t gradient_tokens() const { return 2048; }

  // Its linear layers: the checkpoint's, or quantized ones under a policy (null: everything is read).
  virtual std::unique_ptr<LinearExecutor> float_linears() const;
  virtual std::unique_ptr<QuantizedExecutor> quantized_linears(const QuantizedModel& model,
                                                               const PrecisionPolicy* policy,
                                                               Level prefill_level = kFullLevel) const;
  // The same for generating: kernels for few tokens at a time may round otherwise than those for many.
  virtual std::unique_ptr<QuantizedExecutor> decoding_linears(const QuantizedModel& model,
                                                              const PrecisionPolicy* policy,
                                                              Level prefill_level = kFullLevel) const;
  // Some layers with other float weights, the rest float. layers[i] has weights[i], [out, in].
  virtual std::unique_ptr<LinearExecutor> replaced_linears(
      std::span<const LinearWeights* const> layers, std::span<const Matrix<const float>> weights) const;
  // Some layers rounded as round_scaled() rounds them, from the weights and in the type that the device
  // multiplies; BadInput as it. Null where weights are on the host anyway: round there and replace.
  virtual std::unique_ptr<LinearExecutor> rounded_linears(std::span<const LinearWeights* const>,
                                                          const ScaledRounding&) const {
    return nullptr;
  }

  // Embeddings of the batch's tokens. [rows, hidden]
  virtual Tensor embed(const Batch& batch) const;
  // One decoder block on the residual stream x [rows, hidden], in place. Without a cache every sequence must
  // be whole (past = 0); with one, its rows past .. past + count are written.
  virtual void run_block(int64_t block, const Batch& batch, Activations x, LinearExecutor& linears,
                         KvCache* cache) const;
  // Its two halves, from the normalized stream to what is added to it. x, out: [rows, hidden]
  virtual void attention(int64_t block, const Batch& batch, ConstActivations x, LinearExecutor& linears,
                         KvCache* cache, Activations out) const;
  virtual void mlp(int64_t block, ConstActivations x, LinearExecutor& linears, Activations out) const;
  virtual void final_norm(Activations x) const;
  // Hidden states after the final norm: what the head multiplies. [rows, hidden]
  Tensor run(const Batch& batch, LinearExecutor& linears, KvCache* cache = nullptr) const;
  // Logits of normalized hidden states, on the CPU. [rows, vocab]
  virtual void head(ConstActivations features, Matrix<float> logits) const;
  // What evaluations ask of logits, without keeping them.
  virtual void score(const ScoreTask& task, std::span<TokenScore> scores) const;
  // The backward pass; see runtime/backward.h.
  virtual std::vector<double> backward(const Batch& batch, const GradientObserver& observe) const;

  virtual KvCache make_cache(int64_t sequences, int64_t capacity) const;
  // Decodes by `linears`, which this transformer made and which outlive the decoder.
  virtual std::unique_ptr<Decoder> make_decoder(LinearExecutor& linears, const DecodePlan& plan) const;
  // Activations of float32 where it computes, uninitialized.
  virtual Tensor allocate(int64_t rows, int64_t cols) const;
  // Between activations of the same shape here, on the CPU, or one of each.
  virtual void copy(ConstActivations from, Activations to) const;
  // Squared length of a - b, both here.
  virtual double squared_distance(ConstActivations a, ConstActivations b) const;
  virtual bool all_finite(ConstActivations x) const;

  // Waits for what was asked for; on the CPU it is done.
  virtual void synchronize() const {}
  // Seconds that the device's library takes for y = x w^T by itself, x: [tokens, in], w: [out, in], random:
  // the yardstick of `bench forward`.
  virtual double time_product(int64_t tokens, int64_t in, int64_t out) const;

  MatrixBuffer<float> to_host(ConstActivations x) const;
  Tensor copy_of(ConstActivations x) const;

 protected:
  struct BlockNorms {
    std::vector<float> attention, mlp, q, k;  // q, k empty unless the architecture has them
  };
  const BlockNorms& norms(int64_t block) const { return norms_[static_cast<size_t>(block)]; }
  const std::vector<float>& final_norm_weights() const { return final_norm_; }

 private:
  const Model& model_;
  AttentionShape shape_;
  Rope rope_;
  std::vector<BlockNorms> norms_;
  std::vector<float> final_norm_;
};

// A transformer on the device. BadInput if the model does not fit there.
std::unique_ptr<Transformer> make_transformer(const Model& model, const DeviceChoice& device,
                                              DType rope_frequencies = DType::f32);

}  // namespace grinqh
