#include "calib/apply_plan.h"

#include <algorithm>
#include <cmath>

#include "core/digest.h"
#include "core/error.h"
#include "core/gemm.h"
#include "core/parallel.h"

namespace grinqh {

namespace {

// W diag(scale).
void scale_columns(TensorView& weight, std::span<const float> scale) {
  MatrixBuffer<float> w = to_float(weight);
  parallel_for(w.rows(), [&](int64_t row) {
    for (int64_t i = 0; i < w.cols(); ++i) w.row(row)[i] *= scale[static_cast<size_t>(i)];
  });
  weight = owned_tensor(std::move(w));
}

// diag(1 / divisor) W, and the bias alike.
void divide_rows(LinearWeights& linear, std::span<const float> divisor) {
  MatrixBuffer<float> w = to_float(linear.weight);
  parallel_for(w.rows(), [&](int64_t row) {
    for (int64_t i = 0; i < w.cols(); ++i) w.row(row)[i] /= divisor[static_cast<size_t>(row)];
  });
  linear.weight = owned_tensor(std::move(w));
  if (linear.bias.empty()) return;
  std::vector<float> bias = to_float_vector(linear.bias);
  for (size_t i = 0; i < bias.size(); ++i) bias[i] /= divisor[i];
  linear.bias = owned_tensor(bias);
}

void divide(TensorView& vector, std::span<const float> divisor) {
  std::vector<float> values = to_float_vector(vector);
  for (size_t i = 0; i < values.size(); ++i) values[i] /= divisor[i];
  vector = owned_tensor(values);
}

// The norm's weights move into the layers that read it.
void fold(TensorView& norm, std::initializer_list<TensorView*> readers) {
  const std::vector<float> scale = to_float_vector(norm);
  for (TensorView* weight : readers) scale_columns(*weight, scale);
  norm = owned_tensor(std::vector<float>(scale.size(), 1.0f));
}

void fold_norms(Model& model) {
  for (BlockWeights& block : model.blocks) {
    fold(block.attention_norm, {&block.q.weight, &block.k.weight, &block.v.weight});
    fold(block.mlp_norm, {&block.gate.weight, &block.up.weight});
  }
  fold(model.final_norm, {&model.head});
  model.config.tied_head = false;
}

bool has_no_weights(const TensorView& norm) {
  return std::ranges::all_of(to_float_vector(norm), [](float weight) { return weight == 1.0f; });
}

// What reads the stream: W Q.
void rotate_input(TensorView& weight, Matrix<const float> basis) {
  MatrixBuffer<float> rotated(weight.rows(), basis.cols);
  product_nn(to_float(weight), basis, rotated);
  weight = owned_tensor(std::move(rotated));
}

// What writes to it: Q^T W, and b Q.
void rotate_output(LinearWeights& linear, Matrix<const float> basis, Matrix<const float> transposed) {
  MatrixBuffer<float> rotated(basis.cols, linear.weight.cols());
  product_nn(transposed, to_float(linear.weight), rotated);
  linear.weight = owned_tensor(std::move(rotated));
  if (linear.bias.empty()) return;
  std::vector<float> bias = to_float_vector(linear.bias), turned(bias.size());
  matmul_nn({bias.data(), 1, basis.rows}, basis, {turned.data(), 1, basis.cols});
  linear.bias = owned_tensor(turned);
}

void rotate(Model& model, Matrix<const float> basis, const std::string& owner) {
  const int64_t hidden = model.config.hidden;
  check(basis.rows == hidden && basis.cols == hidden, "the residual stream's basis is [hidden, hidden]");
  const bool folded =
      has_no_weights(model.final_norm) && std::ranges::all_of(model.blocks, [](const BlockWeights& block) {
        return has_no_weights(block.attention_norm) && has_no_weights(block.mlp_norm);
      });
  if (!folded)
    bad_input(
        "{}: the norms still have weights, and a rotation is exact only without: a transform that folds them "
        "into the next layers has to come directly before it",
        owner);
  MatrixBuffer<float> transposed(hidden, hidden);
  for (int64_t i = 0; i < hidden; ++i)
    for (int64_t j = 0; j < hidden; ++j) transposed.row(j)[i] = basis(i, j);
  rotate_input(model.embedding, basis);
  rotate_input(model.head, basis);
  for (BlockWeights& block : model.blocks) {
    for (LinearWeights* reader : {&block.q, &block.k, &block.v, &block.gate, &block.up})
      rotate_input(reader->weight, basis);
    for (LinearWeights* writer : {&block.o, &block.down}) rotate_output(*writer, basis, transposed);
  }
}

void scale_inputs(Model& model, const TransformPlan& plan, const std::string& owner) {
  const std::vector<int64_t> sources = value_sources(model.config);
  size_t used = 0;
  const auto scales_of = [&](const LinearWeights& first) -> std::span<const float> {
    const auto found = plan.input_scales.find(first.id);
    if (found == plan.input_scales.end()) return {};
    ++used;
    const std::vector<float>& scales = found->second;
    check(static_cast<int64_t>(scales.size()) == first.weight.cols(), "one scale an input");
    for (const float scale : scales)
      if (!(scale > 0) || !std::isfinite(scale))
        bad_input("{}: {}: scale {}, expected one above 0", owner, first.id, scale);
    return scales;
  };
  for (BlockWeights& block : model.blocks) {
    if (const auto scales = scales_of(block.q); !scales.empty()) {
      for (LinearWeights* reader : {&block.q, &block.k, &block.v}) scale_columns(reader->weight, scales);
      divide(block.attention_norm, scales);
    }
    if (const auto scales = scales_of(block.o); !scales.empty()) {
      scale_columns(block.o.weight, scales);
      std::vector<float> divisors(static_cast<size_t>(block.v.weight.rows()));
      for (size_t i = 0; i < sources.size(); ++i) {
        float& divisor = divisors[static_cast<size_t>(sources[i])];
        if (divisor != 0 && divisor != scales[i])
          bad_input("{}: {}: inputs that come from one channel of v_proj have scales {} and {}", owner,
                    block.o.id, divisor, scales[i]);
        divisor = scales[i];
      }
      divide_rows(block.v, divisors);
    }
    if (const auto scales = scales_of(block.gate); !scales.empty()) {
      for (LinearWeights* reader : {&block.gate, &block.up}) scale_columns(reader->weight, scales);
      divide(block.mlp_norm, scales);
    }
    if (const auto scales = scales_of(block.down); !scales.empty()) {
      scale_columns(block.down.weight, scales);
      divide_rows(block.up, scales);
    }
  }
  check(used == plan.input_scales.size(), "scales are named by the first layer of a site");
}

}  // namespace

std::vector<int64_t> value_sources(const ModelConfig& config) {
  std::vector<int64_t> sources;
  for (int64_t head = 0; head < config.heads; ++head)
    for (int64_t i = 0; i < config.head_dim; ++i)
      sources.push_back(head / (config.heads / config.kv_heads) * config.head_dim + i);
  return sources;
}

namespace {

std::string digest_of_plan(const std::string& model, const TransformPlan& plan) {
  Digest digest;
  digest.add_field(model).add_field(plan.fold_norms ? "folded" : "");
  const auto add = [&](std::span<const float> values) { digest.add(std::as_bytes(values)); };
  add({plan.residual_basis.data(), static_cast<size_t>(plan.residual_basis.size())});
  for (const auto& [layer, scales] : plan.input_scales) {
    digest.add_field(layer);
    add(scales);
  }
  return digest.hex();
}

}  // namespace

Model apply_plan(const Model& model, const TransformPlan& plan, const std::string& owner) {
  Model result = model;
  if (plan.fold_norms) fold_norms(result);
  if (plan.residual_basis.size() > 0) rotate(result, plan.residual_basis, owner);
  scale_inputs(result, plan, owner);
  result.digest = digest_of_plan(model.digest, plan);
  return result;
}

}  // namespace grinqh
