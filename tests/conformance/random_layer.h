// One random linear layer with the statistics that any plugin may ask for.
#pragma once

#include <string>

#include "core/registry.h"
#include "numbers.h"
#include "quant/gradient_collector.h"
#include "quant/quantizer.h"

namespace grinqh::testing {

// Whether a collector of any kind makes the statistic.
inline bool is_collected(const std::string& name) {
  return Registry<Collector>::get().contains(name) || Registry<DriftCollector>::get().contains(name) ||
         Registry<GradientCollector>::get().contains(name);
}

// Sizes that are multiples of no group, byte or tile. Rows 0 to 3 are special: all zero, constant, one
// outlier in a group, and one outlier in a row of zeros. Inputs have channels of very different sizes.
struct RandomLayer {
  static constexpr int64_t kOut = 37, kIn = 203, kTokens = 600;

  explicit RandomLayer(uint64_t seed = 1)
      : weight(random_matrix(kOut, kIn, seed, 0.02)), inputs(random_matrix(kTokens, kIn, seed + 1)) {
    for (int64_t i = 0; i < kIn; ++i) {
      weight.row(0)[i] = 0.0f;
      weight.row(1)[i] = 0.03f;
      weight.row(3)[i] = 0.0f;
      const auto size = static_cast<float>(std::exp2(static_cast<double>(i % 9) - 4));
      for (int64_t t = 0; t < kTokens; ++t) inputs.row(t)[i] *= size;
    }
    weight.row(2)[50] = 1.0f;
    weight.row(3)[150] = -1.0f;
    stats.tokens = kTokens;
    for (const std::string& name : Registry<Collector>::get().names()) {
      const auto collector = Registry<Collector>::get().make(name);
      collector->observe(inputs);
      stats.values.emplace(name, collector->finish());
    }
    const MatrixBuffer<float> gradients = random_matrix(kTokens, kOut, seed + 2);
    for (const std::string& name : Registry<GradientCollector>::get().names()) {
      const auto collector = Registry<GradientCollector>::get().make(name);
      for (int64_t t = 0; t < kTokens; t += kTokens / 3)
        collector->observe(inputs.view().rows_between(t, t + kTokens / 3),
                           gradients.view().rows_between(t, t + kTokens / 3));
      stats.values.emplace(name, collector->finish());
    }
    // The float model's inputs: a twentieth of another random matrix beside these.
    MatrixBuffer<float> float_inputs = random_matrix(kTokens, kIn, seed + 3, 0.05);
    for (int64_t i = 0; i < inputs.size(); ++i) float_inputs.data()[i] += inputs.data()[i];
    for (const std::string& name : Registry<DriftCollector>::get().names()) {
      const auto collector = Registry<DriftCollector>::get().make(name);
      collector->observe(inputs, float_inputs);
      stats.values.emplace(name, collector->finish());
    }
  }

  LinearTask task() const { return {"model.layers.0.mlp.up_proj", weight.view(), stats}; }

  MatrixBuffer<float> weight;  // [kOut, kIn]
  MatrixBuffer<float> inputs;  // [kTokens, kIn]
  LayerStats stats;
};

// What a model of this one layer would go through.
inline std::unique_ptr<QuantizedLinear> quantize(Quantizer& quantizer, const LinearTask& task) {
  if (quantizer.surveys()) {
    quantizer.survey(task);
    quantizer.allot();
  }
  return quantizer.quantize(task);
}

}  // namespace grinqh::testing
