#include "experiment/prepare.h"

#include "calib/block_trial.h"
#include "core/registry.h"
#include "core/timed_scope.h"
#include "quant/optional_weights.h"

namespace grinqh {

std::unique_ptr<PrecisionPolicy> prepare_policy(const MethodSpec& method, const Transformer& transformer,
                                                const Calibrated& calibrated, Matrix<const int32_t> windows) {
  auto policy = Registry<PrecisionPolicy>::get().make(method.policy.name, method.policy.settings);
  const auto* blind = dynamic_cast<const OptionalWeights*>(policy.get());
  for (const BlockWeights& block : transformer.model().blocks)
    for (const auto& layers : inputs_of(block))
      for (const LinearWeights* layer : layers) {
        const auto quantized = calibrated.model.layers.find(layer->id);
        if (quantized == calibrated.model.layers.end()) continue;
        const auto stats = calibrated.stats.find(layer->id);
        const TimedScope timed("policy sees layers");
        LayerStats of_layer;
        if (stats != calibrated.stats.end()) {
          of_layer.tokens = stats->second->tokens;
          of_layer.parts = {stats->second};
        }
        if (const auto kept = calibrated.derived.find(layer->id); kept != calibrated.derived.end())
          of_layer.derived = kept->second;
        Matrix<const float> weight{nullptr, layer->weight.rows(), layer->weight.cols()};
        MatrixBuffer<float> values;
        if (!blind || blind->looks_at_weights(layer->id, of_layer)) {
          values = to_float(layer->weight);
          weight = values;
        }
        policy->prepare({layer->id, weight, of_layer}, *quantized->second);
      }
  {
    const TimedScope timed("policy allots");
    policy->allot();
  }
  tune_on_blocks(transformer, calibrated.model, windows, *policy);
  return policy;
}

namespace {

ConfigTable parse_method(const std::string& text) {
  if (text.ends_with(".toml")) return ConfigTable::read(text);
  if (text.find('\n') != std::string::npos) return ConfigTable::parse(text, "method");
  return ConfigTable::parse("method = {" + text + "}", "method").table("method");
}

}  // namespace

std::vector<MethodSpec> read_methods(const std::string& text) {
  const ConfigTable config = parse_method(text);
  if (!config.has("methods")) return expand_methods(config);
  std::vector<MethodSpec> methods;
  for (const ConfigTable& table : config.tables("methods"))
    for (MethodSpec& method : expand_methods(table)) methods.push_back(std::move(method));
  return methods;
}

MethodSpec read_single_method(const std::string& text) {
  std::vector<MethodSpec> methods = read_methods(text);
  if (methods.size() != 1)
    bad_input("{}: {} methods, expected one: a list where one value is expected is an axis of a sweep",
              parse_method(text).where(), methods.size());
  return std::move(methods.front());
}

}  // namespace grinqh
