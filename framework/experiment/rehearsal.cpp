#include "experiment/rehearsal.h"

#include "core/registry.h"
#include "core/rng.h"
#include "quant/gradient_collector.h"
#include "quant/precision_policy.h"
#include "quant/quantizer.h"

namespace grinqh {

namespace {

MatrixBuffer<float> random_matrix(int64_t rows, int64_t cols, uint64_t seed) {
  MatrixBuffer<float> matrix(rows, cols);
  Rng rng(seed);
  for (int64_t i = 0; i < matrix.size(); ++i) matrix.data()[i] = static_cast<float>(rng.normal());
  return matrix;
}

}  // namespace

void rehearse(const MethodSpec& method) {
  constexpr int64_t kOut = 64, kIn = 128, kTokens = 256;
  const auto quantizer = Registry<Quantizer>::get().make(method.quantizer.name, method.quantizer.settings);
  const auto policy = Registry<PrecisionPolicy>::get().make(method.policy.name, method.policy.settings);
  LayerStats stats;
  stats.tokens = kTokens;
  const MatrixBuffer<float> inputs = random_matrix(kTokens, kIn, 1);
  for (const std::string& name : method.needs())
    if (Registry<GradientCollector>::get().contains(name)) {
      const auto collector = Registry<GradientCollector>::get().make(name);
      collector->observe(inputs, random_matrix(kTokens, kOut, 3));
      stats.values.emplace(name, collector->finish());
    } else {
      const auto collector = Registry<Collector>::get().make(name);
      collector->observe(inputs);
      stats.values.emplace(name, collector->finish());
    }
  const MatrixBuffer<float> weight = random_matrix(kOut, kIn, 2);
  const LinearTask task{"a random layer", weight, stats};
  try {
    const auto quantized = quantizer->quantize(task);
    policy->prepare(task, *quantized);
    if (method.prefill_level != kFullLevel) quantized->resolve(method.prefill_level);
  } catch (const BadInput& error) {
    const Settings& policy_settings = method.policy.settings;
    bad_input("{}: {} {}: {}", policy_settings.empty() ? method.where : policy_settings.begin()->second.where,
              method.quantizer.name, method.label, error.what());
  }
}

}  // namespace grinqh
