// One random linear layer with the statistics that any plugin may ask for.
#pragma once

#include <string>

#include "core/registry.h"
#include "numbers.h"
#include "quant/quantizer.h"

namespace grinqh::testing {

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
    stats.values.emplace(kFisher, fisher_diagonal(seed + 2));
  }

  LinearTask task() const { return {"model.layers.0.mlp.up_proj", weight.view(), stats}; }

  // Comes from a backward pass through the model, so that no collector of inputs fills it.
  static constexpr const char* kFisher = "fisher_diagonal";

  MatrixBuffer<float> weight;  // [kOut, kIn]
  MatrixBuffer<float> inputs;  // [kTokens, kIn]
  LayerStats stats;

 private:
  // Mean squares of gradients g x^T with random g. [kOut, kIn]
  std::vector<float> fisher_diagonal(uint64_t seed) const {
    const MatrixBuffer<float> g = random_matrix(kTokens, kOut, seed);
    std::vector<float> fisher(static_cast<size_t>(kOut * kIn), 0.0f);
    for (int64_t t = 0; t < kTokens; ++t)
      for (int64_t row = 0; row < kOut; ++row)
        for (int64_t i = 0; i < kIn; ++i) {
          const float gradient = g.row(t)[row] * inputs.row(t)[i];
          fisher[static_cast<size_t>(row * kIn + i)] += gradient * gradient / kTokens;
        }
    return fisher;
  }
};

}  // namespace grinqh::testing
