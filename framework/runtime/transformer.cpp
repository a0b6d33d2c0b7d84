#include "runtime/transformer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/gemm.h"
#include "core/parallel.h"
#include "core/vector_math.h"

namespace grinqh {

Transformer::Transformer(const Model& model, DType rope_frequencies)
    : model_(model),
      shape_{model.config.heads, model.config.kv_heads, model.config.head_dim},
      rope_(model.config.rope, model.config.head_dim, rope_frequencies),
      final_norm_(to_float_vector(model.final_norm)) {
  for (const BlockWeights& block : model.blocks) {
    BlockNorms& norms = norms_.emplace_back();
    norms.attention = to_float_vector(block.attention_norm);
    norms.mlp = to_float_vector(block.mlp_norm);
    if (!block.q_norm.empty()) norms.q = to_float_vector(block.q_norm);
    if (!block.k_norm.empty()) norms.k = to_float_vector(block.k_norm);
  }
}

std::unique_ptr<LinearExecutor> Transformer::float_linears() const {
  return std::make_unique<FloatLinears>();
}

std::unique_ptr<QuantizedExecutor> Transformer::quantized_linears(const QuantizedModel& model,
                                                                  const PrecisionPolicy* policy,
                                                                  Level prefill_level) const {
  return std::make_unique<QuantizedLinears>(model, policy, prefill_level);
}

std::unique_ptr<QuantizedExecutor> Transformer::decoding_linears(const QuantizedModel& model,
                                                                 const PrecisionPolicy* policy,
                                                                 Level prefill_level) const {
  return std::make_unique<QuantizedLinears>(model, policy, prefill_level, DecodeKernels::fast);
}

std::unique_ptr<LinearExecutor> Transformer::replaced_linears(
    std::span<const LinearWeights* const> layers, std::span<const Matrix<const float>> weights) const {
  return std::make_unique<ReplacedLinears>(layers, weights);
}

Tensor Transformer::embed(const Batch& batch) const {
  MatrixBuffer<float> x(batch.rows(), hidden());
  for (int64_t t = 0; t < batch.rows(); ++t) {
    const int32_t token = batch.tokens[static_cast<size_t>(t)];
    check(token >= 0 && token < vocab(), "token id within the vocabulary");
    to_float(model_.embedding, token, token + 1, x.view().rows_between(t, t + 1));
  }
  return x;
}

void Transformer::attention(int64_t block, const Batch& batch, ConstActivations x, LinearExecutor& linears,
                            KvCache* cache, Activations out) const {
  const BlockWeights& weights = model_.blocks[static_cast<size_t>(block)];
  const BlockNorms& norms = norms_[static_cast<size_t>(block)];
  const int64_t kv_width = shape_.kv_heads * shape_.head_dim;
  MatrixBuffer<float> q(x.rows, shape_.heads * shape_.head_dim), k(x.rows, kv_width), v(x.rows, kv_width);
  linears.run(weights.q, x, q);
  linears.run(weights.k, x, k);
  linears.run(weights.v, x, v);
  if (!norms.q.empty()) rms_norm_heads(q, norms.q, model_.config.norm_eps);
  if (!norms.k.empty()) rms_norm_heads(k, norms.k, model_.config.norm_eps);
  rope_.apply(q, batch.steps);
  rope_.apply(k, batch.steps);

  struct Task {
    size_t sequence;
    int64_t index;
  };
  std::vector<Task> tasks;
  std::vector<Matrix<float>> keys, values;
  for (size_t s = 0; s < batch.sequences.size(); ++s) {
    const SequenceRows& rows = batch.sequences[s];
    const int64_t end = rows.first_row + rows.count, length = rows.past + rows.count;
    const Matrix<float> new_keys = k.view().rows_between(rows.first_row, end);
    const Matrix<float> new_values = v.view().rows_between(rows.first_row, end);
    if (cache) {
      check(length <= cache->capacity(), "cache capacity");
      keys.push_back(cache->keys(block, s).rows_between(0, length).matrix());
      values.push_back(cache->values(block, s).rows_between(0, length).matrix());
      std::copy_n(new_keys.data, rows.count * kv_width, keys.back().row(rows.past));
      std::copy_n(new_values.data, rows.count * kv_width, values.back().row(rows.past));
    } else {
      check(rows.past == 0, "a continued sequence needs a cache");
      keys.push_back(new_keys);
      values.push_back(new_values);
    }
    for (int64_t i = 0; i < attention_tasks(shape_, rows.count); ++i) tasks.push_back({s, i});
  }
  MatrixBuffer<float> mixed(x.rows, shape_.heads * shape_.head_dim);
  parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
    const Task& task = tasks[static_cast<size_t>(i)];
    const SequenceRows& rows = batch.sequences[task.sequence];
    const int64_t begin = rows.first_row, end = begin + rows.count;
    attention_task(shape_, task.index, q.view().rows_between(begin, end), keys[task.sequence],
                   values[task.sequence], mixed.view().rows_between(begin, end));
  });
  linears.run(weights.o, mixed, out);
}

void Transformer::mlp(int64_t block, ConstActivations x, LinearExecutor& linears, Activations out) const {
  const BlockWeights& weights = model_.blocks[static_cast<size_t>(block)];
  MatrixBuffer<float> gate(x.rows, model_.config.intermediate), up(x.rows, model_.config.intermediate);
  linears.run(weights.gate, x, gate);
  linears.run(weights.up, x, up);
  parallel_for(x.rows, [&](int64_t t) {
    silu_multiply(gate.view().row_span(t), up.view().row_span(t), gate.view().row_span(t));
  });
  linears.run(weights.down, gate, out);
}

void Transformer::run_block(int64_t block, const Batch& batch, Activations stream, LinearExecutor& linears,
                            KvCache* cache) const {
  const Matrix<float> x = stream.matrix();
  const BlockNorms& norms = norms_[static_cast<size_t>(block)];
  MatrixBuffer<float> normalized(x.rows, x.cols), update(x.rows, x.cols);
  rms_norm(x, norms.attention, model_.config.norm_eps, normalized);
  attention(block, batch, normalized, linears, cache, update);
  add_rows(x, update);

  rms_norm(x, norms.mlp, model_.config.norm_eps, normalized);
  mlp(block, normalized, linears, update);
  add_rows(x, update);
}

void Transformer::final_norm(Activations x) const {
  rms_norm(x.matrix(), final_norm_, model_.config.norm_eps, x.matrix());
}

Tensor Transformer::run(const Batch& batch, LinearExecutor& linears, KvCache* cache) const {
  linears.begin_batch(batch.steps);
  Tensor x = embed(batch);
  for (int64_t block = 0; block < blocks(); ++block) run_block(block, batch, x, linears, cache);
  final_norm(x);
  return x;
}

void Transformer::head(ConstActivations features, Matrix<float> logits) const {
  static const LinearWeights unnamed;
  LinearWeights head = unnamed;
  head.weight = model_.head;
  FloatLinears().run(head, features, logits);
}

void Transformer::score(const ScoreTask& task, std::span<TokenScore> scores) const {
  score_tokens(*this, task, scores);
}

KvCache Transformer::make_cache(int64_t sequences, int64_t capacity) const {
  return {blocks(), sequences, capacity, shape_.kv_heads * shape_.head_dim};
}

std::unique_ptr<Decoder> Transformer::make_decoder(LinearExecutor& linears, const DecodePlan& plan) const {
  return make_stepwise_decoder(*this, linears, plan);
}

Tensor Transformer::allocate(int64_t rows, int64_t cols) const { return MatrixBuffer<float>(rows, cols); }

void Transformer::copy(ConstActivations from, Activations to) const {
  const Matrix<const float> source = from.matrix();
  const Matrix<float> target = to.matrix();
  check(source.rows == target.rows && source.cols == target.cols, "a copy of the same shape");
  parallel_for(source.rows, [&](int64_t t) { std::copy_n(source.row(t), source.cols, target.row(t)); });
}

double Transformer::squared_distance(ConstActivations first, ConstActivations second) const {
  const Matrix<const float> a = first.matrix(), b = second.matrix();
  std::vector<double> rows(static_cast<size_t>(a.rows));
  parallel_for(a.rows, [&](int64_t t) {
    double sum = 0;
    for (int64_t i = 0; i < a.cols; ++i) {
      const double difference = static_cast<double>(a(t, i)) - static_cast<double>(b(t, i));
      sum += difference * difference;
    }
    rows[static_cast<size_t>(t)] = sum;
  });
  return std::accumulate(rows.begin(), rows.end(), 0.0);
}

bool Transformer::all_finite(ConstActivations x) const {
  const Matrix<const float> values = x.matrix();
  std::vector<uint8_t> finite(static_cast<size_t>(values.rows));
  parallel_for(values.rows, [&](int64_t t) {
    finite[static_cast<size_t>(t)] =
        std::ranges::all_of(values.row_span(t), [](float value) { return std::isfinite(value); });
  });
  return std::ranges::count(finite, 0) == 0;
}

double Transformer::time_product(int64_t tokens, int64_t in, int64_t out) const {
  return time_blas_sgemm(tokens, in, out, 1);
}

MatrixBuffer<float> Transformer::to_host(ConstActivations x) const {
  MatrixBuffer<float> host(x.rows, x.cols);
  copy(x, host);
  return host;
}

Tensor Transformer::copy_of(ConstActivations x) const {
  Tensor result = allocate(x.rows, x.cols);
  copy(x, result);
  return result;
}

}  // namespace grinqh
