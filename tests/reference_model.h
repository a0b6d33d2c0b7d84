// The loss of a model as a function of its weights, in float64 and as plainly as it can be written.
#pragma once

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "model/model.h"

namespace grinqh::testing {

// The weights of the linear layers can be changed one by one.
class ReferenceModel {
 public:
  using Vector = std::vector<double>;

  explicit ReferenceModel(const Model& model) : model_(model) {
    for (const BlockWeights& block : model.blocks)
      for (const LinearWeights* layer :
           {&block.q, &block.k, &block.v, &block.o, &block.gate, &block.up, &block.down})
        weights_[layer->id] = values(layer->weight);
  }

  Vector& weight(const std::string& layer) { return weights_.at(layer); }

  // Summed over the predictions of one sequence.
  double loss(const std::vector<int32_t>& tokens) const {
    const ModelConfig& c = model_.config;
    std::vector<Vector> x;
    const Vector embedding = values(model_.embedding);
    for (const int32_t token : tokens)
      x.emplace_back(embedding.begin() + token * c.hidden, embedding.begin() + (token + 1) * c.hidden);
    for (const BlockWeights& block : model_.blocks) run_block(block, x);
    const Vector head = values(model_.head), norm = values(model_.final_norm);
    double loss = 0;
    for (size_t t = 0; t + 1 < tokens.size(); ++t) {
      const Vector logits = times(head, normalized(x[t], norm));
      double sum = 0;
      for (const double logit : logits) sum += std::exp(logit);
      loss += std::log(sum) - logits[static_cast<size_t>(tokens[t + 1])];
    }
    return loss;
  }

 private:
  static Vector values(const TensorView& tensor) {
    const std::vector<float> floats = to_float_vector(tensor);
    return {floats.begin(), floats.end()};
  }
  static Vector times(const Vector& w, const Vector& x) {
    Vector y(w.size() / x.size());
    for (size_t n = 0; n < y.size(); ++n)
      for (size_t k = 0; k < x.size(); ++k) y[n] += w[n * x.size() + k] * x[k];
    return y;
  }
  static void add(Vector& x, const Vector& y) {
    for (size_t i = 0; i < y.size(); ++i) x[i] += y[i];
  }
  Vector linear(const LinearWeights& layer, const Vector& x) const {
    Vector y = times(weights_.at(layer.id), x);
    if (!layer.bias.empty()) add(y, values(layer.bias));
    return y;
  }
  Vector normalized(const Vector& x, const Vector& weight) const {
    double mean = 0;
    for (const double value : x) mean += value * value / static_cast<double>(x.size());
    Vector y = x;
    for (size_t i = 0; i < y.size(); ++i) y[i] *= weight[i] / std::sqrt(mean + model_.config.norm_eps);
    return y;
  }

  // Heads of a projection at one position: normalized if there is a norm, and rotated.
  void turn(Vector& x, const TensorView& norm, size_t position) const {
    const auto dim = static_cast<size_t>(model_.config.head_dim);
    for (size_t h = 0; h < x.size(); h += dim) {
      Vector head(x.begin() + static_cast<int64_t>(h), x.begin() + static_cast<int64_t>(h + dim));
      if (!norm.empty()) head = normalized(head, values(norm));
      for (size_t i = 0; i < dim / 2; ++i) {
        const double angle =
            static_cast<double>(position) *
            std::pow(model_.config.rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
        x[h + i] = head[i] * std::cos(angle) - head[i + dim / 2] * std::sin(angle);
        x[h + i + dim / 2] = head[i + dim / 2] * std::cos(angle) + head[i] * std::sin(angle);
      }
    }
  }

  void run_block(const BlockWeights& block, std::vector<Vector>& x) const {
    const ModelConfig& c = model_.config;
    const auto dim = static_cast<size_t>(c.head_dim);
    std::vector<Vector> keys, all_values;
    for (size_t t = 0; t < x.size(); ++t) {
      const Vector in = normalized(x[t], values(block.attention_norm));
      Vector q = linear(block.q, in);
      keys.push_back(linear(block.k, in));
      all_values.push_back(linear(block.v, in));
      turn(q, block.q_norm, t);
      turn(keys.back(), block.k_norm, t);
      Vector mixed(q.size());
      for (size_t h = 0; h < static_cast<size_t>(c.heads); ++h) {
        const size_t kv = h * static_cast<size_t>(c.kv_heads) / static_cast<size_t>(c.heads) * dim;
        double sum = 0;
        for (size_t s = 0; s <= t; ++s) {
          double score = 0;
          for (size_t i = 0; i < dim; ++i) score += q[h * dim + i] * keys[s][kv + i];
          const double share = std::exp(score / std::sqrt(static_cast<double>(dim)));
          sum += share;
          for (size_t i = 0; i < dim; ++i) mixed[h * dim + i] += share * all_values[s][kv + i];
        }
        for (size_t i = 0; i < dim; ++i) mixed[h * dim + i] /= sum;
      }
      add(x[t], linear(block.o, mixed));
    }
    for (Vector& row : x) {
      const Vector in = normalized(row, values(block.mlp_norm));
      Vector gate = linear(block.gate, in);
      const Vector up = linear(block.up, in);
      for (size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1.0 + std::exp(-gate[i]));
      add(row, linear(block.down, gate));
    }
  }

  const Model& model_;
  std::map<std::string, Vector> weights_;
};

}  // namespace grinqh::testing
