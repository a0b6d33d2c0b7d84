#include "quant/prompt_classifier.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/rng.h"

namespace grinqh {

namespace {

constexpr double kNormEpsilon = 1e-5;

// Where each group of parameters begins.
struct Offsets {
  explicit Offsets(const ClassifierShape& shape)
      : scale(shape.queries() * shape.dim),
        shift(scale + shape.width()),
        hidden(shift + shape.width()),
        hidden_bias(hidden + shape.width() * shape.width()),
        output(hidden_bias + shape.width()),
        output_bias(output + shape.classes * shape.width()),
        end(output_bias + shape.classes) {}
  int64_t scale, shift, hidden, hidden_bias, output, output_bias, end;
};

double dot(const double* a, const double* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

void softmax(std::span<double> x) {
  const double top = *std::ranges::max_element(x);
  double sum = 0;
  for (double& value : x) sum += value = std::exp(value - top);
  for (double& value : x) value /= sum;
}

MatrixBuffer<float> mean_of_heads(Matrix<const float> x, int64_t heads) {
  const int64_t dim = x.cols / heads;
  MatrixBuffer<float> mean(x.rows, dim);
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t i = 0; i < dim; ++i) {
      double sum = 0;
      for (int64_t h = 0; h < heads; ++h) sum += x(t, h * dim + i);
      mean.row(t)[i] = static_cast<float>(sum / static_cast<double>(heads));
    }
  return mean;
}

}  // namespace

PromptFeatures PromptFeatures::of(Matrix<const float> keys, Matrix<const float> values, int64_t heads) {
  return {mean_of_heads(keys, heads), mean_of_heads(values, heads)};
}

int64_t ClassifierShape::parameters() const { return Offsets(*this).end; }

// Queries: normal with the standard deviation that keeps variances (Glorot and Bengio); linear layers:
// uniform within 1 / sqrt(inputs).
PromptClassifier::PromptClassifier(ClassifierShape shape, uint64_t seed)
    : shape_(shape), parameters_(static_cast<size_t>(shape.parameters())) {
  const Offsets at(shape_);
  Rng rng(seed);
  const double bound = 1 / std::sqrt(static_cast<double>(shape_.width()));
  for (int64_t i = 0; i < at.end; ++i)
    parameters_[static_cast<size_t>(i)] = i < at.scale    ? bound * rng.normal()
                                          : i < at.shift  ? 1
                                          : i < at.hidden ? 0
                                                          : bound * (2 * rng.uniform() - 1);
}

PromptClassifier::PromptClassifier(ClassifierShape shape, std::vector<double> parameters)
    : shape_(shape), parameters_(std::move(parameters)) {
  check(static_cast<int64_t>(parameters_.size()) == shape_.parameters(), "classifier: parameter count");
}

struct PromptClassifier::Pass {
  std::vector<double> weights;     // [queries, tokens], before dropout
  std::vector<double> normalized;  // [width], before scale and shift
  double deviation = 1;            // what layer norm divided by
  std::vector<double> inputs;      // [width], of the hidden layer
  std::vector<double> hidden;      // [width], after the ReLU
  std::vector<double> logits;      // [classes]
};

PromptClassifier::Pass PromptClassifier::forward(const PromptFeatures& prompt,
                                                 std::span<const double> keep) const {
  const Offsets at(shape_);
  const double* p = parameters_.data();
  const int64_t tokens = prompt.keys.rows(), dim = shape_.dim, heads = shape_.heads, width = shape_.width();
  check(prompt.keys.cols() == dim && tokens > 0, "classifier: prompt shape");
  Pass pass;
  pass.weights.resize(static_cast<size_t>(shape_.queries() * tokens));
  // Attention's output, averaged over the second index of the queries; channel-major: [dim, heads].
  std::vector<double> pooled(static_cast<size_t>(width), 0.0);
  for (int64_t q = 0; q < shape_.queries(); ++q) {
    const std::span<double> weights =
        std::span(pass.weights).subspan(static_cast<size_t>(q * tokens), static_cast<size_t>(tokens));
    for (int64_t t = 0; t < tokens; ++t) {
      double score = 0;
      for (int64_t i = 0; i < dim; ++i) score += p[q * dim + i] * static_cast<double>(prompt.keys.row(t)[i]);
      weights[static_cast<size_t>(t)] = score / std::sqrt(static_cast<double>(dim));
    }
    softmax(weights);
    for (int64_t t = 0; t < tokens; ++t) {
      double weight = weights[static_cast<size_t>(t)] / static_cast<double>(heads);
      if (!keep.empty()) weight *= keep[static_cast<size_t>(q * tokens + t)];
      for (int64_t i = 0; i < dim; ++i)
        pooled[static_cast<size_t>(i * heads + q / heads)] +=
            weight * static_cast<double>(prompt.values.row(t)[i]);
    }
  }

  double mean = 0, variance = 0;
  for (const double value : pooled) mean += value / static_cast<double>(width);
  for (const double value : pooled) variance += (value - mean) * (value - mean) / static_cast<double>(width);
  pass.deviation = std::sqrt(variance + kNormEpsilon);
  for (int64_t i = 0; i < width; ++i) {
    pass.normalized.push_back((pooled[static_cast<size_t>(i)] - mean) / pass.deviation);
    pass.inputs.push_back(pass.normalized.back() * p[at.scale + i] + p[at.shift + i]);
  }
  for (int64_t i = 0; i < width; ++i)
    pass.hidden.push_back(
        std::max(0.0, dot(p + at.hidden + i * width, pass.inputs.data(), width) + p[at.hidden_bias + i]));
  for (int64_t c = 0; c < shape_.classes; ++c)
    pass.logits.push_back(dot(p + at.output + c * width, pass.hidden.data(), width) + p[at.output_bias + c]);
  return pass;
}

std::vector<double> PromptClassifier::logits(const PromptFeatures& prompt) const {
  return forward(prompt, {}).logits;
}

int64_t PromptClassifier::classify(const PromptFeatures& prompt) const {
  const std::vector<double> scores = logits(prompt);
  return std::ranges::max_element(scores) - scores.begin();
}

double PromptClassifier::loss(const PromptFeatures& prompt, int64_t label, std::span<double> gradient,
                              std::span<const double> keep) const {
  const Offsets at(shape_);
  const double* p = parameters_.data();
  const int64_t tokens = prompt.keys.rows(), dim = shape_.dim, heads = shape_.heads, width = shape_.width();
  const Pass pass = forward(prompt, keep);
  std::vector<double> share = pass.logits;
  softmax(share);
  const double loss = -std::log(std::max(share[static_cast<size_t>(label)], 1e-300));
  if (gradient.empty()) return loss;

  double* g = gradient.data();
  share[static_cast<size_t>(label)] -= 1;  // now the gradient of the logits
  std::vector<double> hidden(static_cast<size_t>(width), 0.0), inputs(static_cast<size_t>(width), 0.0);
  for (int64_t c = 0; c < shape_.classes; ++c) {
    const double slope = share[static_cast<size_t>(c)];
    g[at.output_bias + c] += slope;
    for (int64_t i = 0; i < width; ++i) {
      g[at.output + c * width + i] += slope * pass.hidden[static_cast<size_t>(i)];
      hidden[static_cast<size_t>(i)] += slope * p[at.output + c * width + i];
    }
  }
  for (int64_t i = 0; i < width; ++i) {
    if (pass.hidden[static_cast<size_t>(i)] <= 0) continue;
    const double slope = hidden[static_cast<size_t>(i)];
    g[at.hidden_bias + i] += slope;
    for (int64_t j = 0; j < width; ++j) {
      g[at.hidden + i * width + j] += slope * pass.inputs[static_cast<size_t>(j)];
      inputs[static_cast<size_t>(j)] += slope * p[at.hidden + i * width + j];
    }
  }
  // Layer norm: the gradient loses its parts along the mean and along the normalized vector.
  std::vector<double> pooled(static_cast<size_t>(width));
  double along_mean = 0, along_normalized = 0;
  for (int64_t i = 0; i < width; ++i) {
    const auto k = static_cast<size_t>(i);
    g[at.scale + i] += inputs[k] * pass.normalized[k];
    g[at.shift + i] += inputs[k];
    pooled[k] = inputs[k] * p[at.scale + i];
    along_mean += pooled[k] / static_cast<double>(width);
    along_normalized += pooled[k] * pass.normalized[k] / static_cast<double>(width);
  }
  for (size_t k = 0; k < pooled.size(); ++k)
    pooled[k] = (pooled[k] - along_mean - pass.normalized[k] * along_normalized) / pass.deviation;

  std::vector<double> slopes(static_cast<size_t>(tokens));  // of a query's attention weights
  for (int64_t q = 0; q < shape_.queries(); ++q) {
    double mean = 0;
    for (int64_t t = 0; t < tokens; ++t) {
      double slope = 0;
      for (int64_t i = 0; i < dim; ++i)
        slope +=
            pooled[static_cast<size_t>(i * heads + q / heads)] * static_cast<double>(prompt.values.row(t)[i]);
      slope /= static_cast<double>(heads);
      if (!keep.empty()) slope *= keep[static_cast<size_t>(q * tokens + t)];
      slopes[static_cast<size_t>(t)] = slope;
      mean += slope * pass.weights[static_cast<size_t>(q * tokens + t)];
    }
    for (int64_t t = 0; t < tokens; ++t) {
      const double score = pass.weights[static_cast<size_t>(q * tokens + t)] *
                           (slopes[static_cast<size_t>(t)] - mean) / std::sqrt(static_cast<double>(dim));
      for (int64_t i = 0; i < dim; ++i) g[q * dim + i] += score * static_cast<double>(prompt.keys.row(t)[i]);
    }
  }
  return loss;
}

}  // namespace grinqh
