// The forward pass of a decoder-only transformer, for all architectures and all executors of linear layers.
#pragma once

#include "model/model.h"
#include "runtime/attention.h"
#include "runtime/batch.h"
#include "runtime/linear_executor.h"
#include "runtime/ops.h"

namespace grinqh {

class Transformer {
 public:
  // transformers keeps RoPE's frequencies in float32, but `model.to(torch.bfloat16)` rounds them together
  // with the weights, and they stay rounded: `rope_frequencies` is for comparing with outputs of such a
  // model.
  explicit Transformer(const Model& model, DType rope_frequencies = DType::f32);

  const Model& model() const { return model_; }
  int64_t hidden() const { return model_.config.hidden; }
  int64_t vocab() const { return model_.config.vocab; }
  int64_t blocks() const { return static_cast<int64_t>(model_.blocks.size()); }
  const AttentionShape& attention_shape() const { return shape_; }
  const Rope& rope() const { return rope_; }

  // Embeddings of the batch's tokens. [rows, hidden]
  MatrixBuffer<float> embed(const Batch& batch) const;
  // One decoder block on the residual stream x [rows, hidden], in place. Without a cache every sequence must
  // be whole (past = 0); with one, its rows past .. past + count are written.
  void run_block(int64_t block, const Batch& batch, Matrix<float> x, LinearExecutor& linears,
                 KvCache* cache) const;
  // Hidden states after the final norm: what the head multiplies. [rows, hidden]
  MatrixBuffer<float> run(const Batch& batch, LinearExecutor& linears, KvCache* cache = nullptr) const;
  void final_norm(Matrix<float> x) const;
  // Logits of normalized hidden states. [rows, vocab]
  void head(Matrix<const float> features, Matrix<float> logits) const;

  KvCache make_cache(int64_t sequences, int64_t capacity) const;

 private:
  struct BlockNorms {
    std::vector<float> attention, mlp, q, k;  // q, k empty unless the architecture has them
  };
  void attention(int64_t block, const Batch& batch, Matrix<const float> x, LinearExecutor& linears,
                 KvCache* cache, Matrix<float> out) const;

  const Model& model_;
  AttentionShape shape_;
  Rope rope_;
  std::vector<BlockNorms> norms_;
  std::vector<float> final_norm_;
};

}  // namespace grinqh
