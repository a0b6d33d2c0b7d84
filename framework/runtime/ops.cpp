#include "runtime/ops.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"
#include "core/parallel.h"
#include "core/vector_math.h"

namespace grinqh {

namespace {

// Rows of a task, so that small tasks do not drown in scheduling.
constexpr int64_t kTaskRows = 32;

template <class Body>
void for_rows(int64_t rows, const Body& body) {
  parallel_for((rows + kTaskRows - 1) / kTaskRows, [&](int64_t task) {
    for (int64_t r = task * kTaskRows; r < std::min((task + 1) * kTaskRows, rows); ++r) body(r);
  });
}

void normalize(std::span<const float> x, std::span<const float> weight, double eps, float* out) {
  const double mean = sum_of_squares(x) / static_cast<double>(x.size());
  const auto scale = static_cast<float>(1.0 / std::sqrt(mean + eps));
  for (size_t i = 0; i < x.size(); ++i) out[i] = x[i] * scale * weight[i];
}

// y = x r o weight with r = 1 / sqrt(mean(x^2) + eps): dx = r (dy o weight) - x r^3 mean(dy o weight o x).
void normalize_backward(std::span<const float> x, std::span<const float> weight, double eps, float* d) {
  const auto size = static_cast<double>(x.size());
  const double scale = 1.0 / std::sqrt(sum_of_squares(x) / size + eps);
  double along = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    d[i] *= weight[i];
    along += static_cast<double>(d[i]) * static_cast<double>(x[i]);
  }
  const auto r = static_cast<float>(scale);
  const auto shift = static_cast<float>(scale * scale * scale * along / size);
  for (size_t i = 0; i < x.size(); ++i) d[i] = r * d[i] - shift * x[i];
}

}  // namespace

void rms_norm(Matrix<const float> x, std::span<const float> weight, double eps, Matrix<float> out) {
  for_rows(x.rows, [&](int64_t t) { normalize(x.row_span(t), weight, eps, out.row(t)); });
}

void rms_norm_heads(Matrix<float> x, std::span<const float> weight, double eps) {
  const auto dim = static_cast<int64_t>(weight.size());
  for_rows(x.rows, [&](int64_t t) {
    for (int64_t h = 0; h < x.cols; h += dim)
      normalize({x.row(t) + h, weight.size()}, weight, eps, x.row(t) + h);
  });
}

void rms_norm_backward(Matrix<const float> x, std::span<const float> weight, double eps, Matrix<float> d) {
  for_rows(x.rows, [&](int64_t t) { normalize_backward(x.row_span(t), weight, eps, d.row(t)); });
}

void rms_norm_heads_backward(Matrix<const float> x, std::span<const float> weight, double eps,
                             Matrix<float> d) {
  const auto dim = static_cast<int64_t>(weight.size());
  for_rows(x.rows, [&](int64_t t) {
    for (int64_t h = 0; h < x.cols; h += dim)
      normalize_backward({x.row(t) + h, weight.size()}, weight, eps, d.row(t) + h);
  });
}

void add_rows(Matrix<float> x, Matrix<const float> y) {
  for_rows(x.rows, [&](int64_t t) {
    float* to = x.row(t);
    const float* from = y.row(t);
    for (int64_t i = 0; i < x.cols; ++i) to[i] += from[i];
  });
}

void add_bias(Matrix<float> x, std::span<const float> bias) {
  for_rows(x.rows, [&](int64_t t) {
    float* to = x.row(t);
    for (int64_t i = 0; i < x.cols; ++i) to[i] += bias[static_cast<size_t>(i)];
  });
}

// Frequencies and angles are rounded to float32 as transformers rounds them: models were trained with these.
Rope::Rope(const RopeConfig& config, int64_t head_dim, DType frequencies) : head_dim_(head_dim) {
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    float frequency = 1.0f / std::pow(static_cast<float>(config.theta), exponent);
    if (config.llama3_scaling) {
      // Long wavelengths are stretched by `factor`, short ones kept, those between blended (Llama 3.1).
      const double wavelength = 2.0 * std::numbers::pi / frequency;
      const double longest = config.original_context / config.low_freq_factor;
      const double shortest = config.original_context / config.high_freq_factor;
      const double smooth = (config.original_context / wavelength - config.low_freq_factor) /
                            (config.high_freq_factor - config.low_freq_factor);
      if (wavelength > longest)
        frequency = static_cast<float>(frequency / config.factor);
      else if (wavelength >= shortest)
        frequency = static_cast<float>((1.0 - smooth) * frequency / config.factor + smooth * frequency);
    }
    frequencies_.push_back(rounded_to(frequencies, frequency));
  }
}

void Rope::turn(Matrix<float> x, std::span<const Step> steps, float direction) const {
  check(static_cast<int64_t>(steps.size()) == x.rows && x.cols % head_dim_ == 0, "rope: shapes");
  const int64_t half = head_dim_ / 2;
  for_rows(x.rows, [&](int64_t t) {
    thread_local std::vector<float> cosine, sine;
    cosine.resize(frequencies_.size());
    sine.resize(frequencies_.size());
    for (size_t i = 0; i < frequencies_.size(); ++i) {
      const float angle = static_cast<float>(steps[static_cast<size_t>(t)].position) * frequencies_[i];
      cosine[i] = std::cos(angle);
      sine[i] = direction * std::sin(angle);
    }
    for (float* head = x.row(t); head < x.row(t) + x.cols; head += head_dim_)
      for (int64_t i = 0; i < half; ++i) {
        const float a = head[i], b = head[i + half];
        const auto j = static_cast<size_t>(i);
        head[i] = a * cosine[j] - b * sine[j];
        head[i + half] = b * cosine[j] + a * sine[j];
      }
  });
}

}  // namespace grinqh
