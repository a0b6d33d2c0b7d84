#include "experiment/rehearsal.h"

#include "core/registry.h"
#include "core/rng.h"
#include "experiment/transforms.h"
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

LayerStats random_statistics(const CollectorNames& names, int64_t out, int64_t in) {
  constexpr int64_t kTokens = 256;
  const MatrixBuffer<float> x = random_matrix(kTokens, in, 1), x_float = random_matrix(kTokens, in, 3);
  LayerStats stats;
  stats.tokens = kTokens;
  const auto collect = [&](const std::string& name) -> PlainVector<float> {
    if (Registry<DriftCollector>::get().contains(name)) {
      const auto collector = Registry<DriftCollector>::get().make(name);
      collector->observe(x, x_float);
      return collector->finish();
    }
    if (Registry<GradientCollector>::get().contains(name)) {
      const auto collector = Registry<GradientCollector>::get().make(name);
      collector->observe(x, random_matrix(kTokens, out, 4));
      return collector->finish();
    }
    const auto collector = Registry<Collector>::get().make(name);
    collector->observe(x);
    return collector->finish();
  };
  for (const std::string& name : names) stats.values.emplace(name, collect(name));
  return stats;
}

}  // namespace

void rehearse(const MethodSpec& method) {
  rehearse_transforms(method.transforms);
  constexpr int64_t kOut = 64, kIn = 128;
  const auto quantizer = Registry<Quantizer>::get().make(method.quantizer.name, method.quantizer.settings);
  const auto policy = Registry<PrecisionPolicy>::get().make(method.policy.name, method.policy.settings);
  CollectorNames names = quantizer->needs();
  names.merge(quantizer->survey_needs());
  names.merge(policy->needs());
  const LayerStats stats = random_statistics(names, kOut, kIn);
  const MatrixBuffer<float> weight = random_matrix(kOut, kIn, 2);
  const LinearTask task{"a random layer", weight, stats};
  try {
    if (quantizer->surveys()) {
      quantizer->survey(task);
      quantizer->allot();
    }
    const auto quantized = quantizer->quantize(task);
    policy->prepare(task, *quantized);
    policy->allot();
    if (method.prefill_level != kFullLevel) quantized->resolve(method.prefill_level);
  } catch (const BadInput& error) {
    const Settings& policy_settings = method.policy.settings;
    bad_input("{}: {} {}: {}", policy_settings.empty() ? method.where : policy_settings.begin()->second.where,
              method.quantizer.name, method.label, error.what());
  }
}

}  // namespace grinqh
