// Decoding products on the device beside float64 sums over the dequantized weights.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <span>
#include <vector>

#include "cuda/gemv.h"
#include "typed_matrix.h"

namespace grinqh::testing {

// y of f32 inputs x, [tokens, stride]; what is not written is no number.
inline std::vector<float> run_gemv(cuda::Gemv& gemv, const std::vector<float>& x, int64_t tokens,
                                   std::span<const cuda::GemvReading> readings = {}) {
  std::vector<float> y(static_cast<size_t>(tokens * gemv.out()), std::nanf(""));
  const auto input = device_array(x), output = device_array(y);
  gemv.run({{input.data(), tokens, gemv.in(), std::ssize(x) / tokens, cuda::Type::f32}}, readings,
           {{output.data(), tokens, gemv.out(), gemv.out(), cuda::Type::f32}}, nullptr);
  cuda::to_host(output.data(), y.data(), std::ssize(y) * 4, nullptr);
  return y;
}

// ||y - y'|| / ||y'|| of a token. y: rows of y_stride outputs, of which those of the layer begin at `first`.
inline double gemv_error(const QuantizedLinear& layer, Level level, const std::vector<float>& x,
                         int64_t stride, const std::vector<float>& y, int64_t y_stride, int64_t first,
                         int64_t token) {
  const MatrixBuffer<float> w = layer.dequantize(level);
  double difference = 0, norm = 0;
  for (int64_t row = 0; row < layer.out(); ++row) {
    double sum = 0;
    for (int64_t i = 0; i < layer.in(); ++i)
      sum += double{w.view()(row, i)} * x[static_cast<size_t>(token * stride + i)];
    const double off = sum - y[static_cast<size_t>(token * y_stride + first + row)];
    difference += off * off;
    norm += sum * sum;
  }
  return std::sqrt(difference / norm);
}

// What is made of x, [tokens, 2 in], on the way in, and where y goes, by their formulas in float64: several
// layers at once, each at its level, from normalized and from gated inputs, onto what stood there.
inline void expect_formed_products(cuda::Gemv& gemv, std::span<const QuantizedLinear* const> layers,
                                   std::span<const Level> levels, const std::vector<float>& x, int64_t tokens,
                                   double tolerance) {
  const int64_t in = gemv.in(), out = gemv.out();
  const std::vector<float> norm = random_vector(in, 7), bias = random_vector(out, 8),
                           before = random_vector(tokens * out, 9);
  const auto device_x = device_array(x), device_norm = device_array(norm), device_bias = device_array(bias);
  std::vector<cuda::GemvReading> readings;
  for (const Level level : levels) readings.push_back({level});
  for (const auto form : {cuda::GemvInput::Form::rms_norm, cuda::GemvInput::Form::swiglu}) {
    const bool gated = form == cuda::GemvInput::Form::swiglu;
    SCOPED_TRACE(gated ? "gated" : "normalized");
    const auto device_y = device_array(before);
    gemv.run({{device_x.data(), tokens, gated ? 2 * in : in, 2 * in, cuda::Type::f32},
              form,
              device_norm.data(),
              1e-5f},
             readings, {{device_y.data(), tokens, out, out, cuda::Type::f32}, true, device_bias.data()},
             nullptr);
    std::vector<float> y(before.size());
    cuda::to_host(device_y.data(), y.data(), std::ssize(y) * 4, nullptr);
    // Back to the bare product of what x becomes.
    for (size_t i = 0; i < y.size(); ++i) y[i] -= before[i] + bias[i % static_cast<size_t>(out)];
    std::vector<float> made(static_cast<size_t>(tokens * in));
    for (int64_t token = 0; token < tokens; ++token) {
      const float* row = x.data() + token * 2 * in;
      double squares = 0;
      for (int64_t i = 0; i < in; ++i) squares += double{row[i]} * row[i];
      const double factor = 1.0 / std::sqrt(squares / static_cast<double>(in) + 1e-5);
      for (int64_t i = 0; i < in; ++i)
        made[static_cast<size_t>(token * in + i)] =
            static_cast<float>(gated ? row[i] / (1.0 + std::exp(-double{row[i]})) * row[in + i]
                                     : row[i] * factor * norm[static_cast<size_t>(i)]);
    }
    for (int64_t token = 0; token < tokens; ++token) {
      int64_t first = 0;
      for (size_t l = 0; l < layers.size(); ++l) {
        EXPECT_LE(gemv_error(*layers[l], levels[l], made, in, y, out, first, token), tolerance)
            << "token " << token << ", layer " << l;
        first += layers[l]->out();
      }
    }
  }
}

}  // namespace grinqh::testing
