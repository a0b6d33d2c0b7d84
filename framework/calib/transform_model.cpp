#include "calib/transform_model.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "calib/apply_plan.h"
#include "calib/block_collectors.h"
#include "calib/gradients.h"
#include "calib/module_probe.h"
#include "core/error.h"
#include "core/progress.h"

namespace grinqh {

namespace {

constexpr double kAllowedError = 1e-4;
constexpr int64_t kCheckedTokens = 256;  // of the first window: logits of a large vocabulary are large

// What one layer's input is made of: see TransformSite.
std::vector<int64_t> sources_of(const Model& model, size_t site, int64_t in) {
  constexpr size_t kOutputProjection = 1;  // of inputs_of()
  if (site == kOutputProjection) return value_sources(model.config);
  std::vector<int64_t> sources(static_cast<size_t>(in));
  for (size_t i = 0; i < sources.size(); ++i) sources[i] = static_cast<int64_t>(i);
  return sources;
}

void show_block(const Transformer& transformer, const StreamSample& sample, int64_t index,
                const CalibrationStats& stats, const CalibrationStats& gradients, ModelTransform& transform) {
  const BlockWeights& block = transformer.model().blocks[static_cast<size_t>(index)];
  const auto groups = inputs_of(block);
  std::vector<MatrixBuffer<float>> weights;
  std::vector<std::unique_ptr<StreamProbe>> probes;
  std::vector<TransformSite> sites;
  for (size_t g = 0; g < groups.size(); ++g) {
    const LinearWeights& first = *groups[g].front();
    probes.push_back(std::make_unique<StreamProbe>(transformer, sample, index, g));
    TransformSite site{{},
                       &first == &block.q || &first == &block.gate,
                       sources_of(transformer.model(), g, first.weight.cols()),
                       *stats.at(first.id),
                       *probes.back()};
    for (const LinearWeights* layer : groups[g]) {
      weights.push_back(to_float(layer->weight));
      const auto gradient = gradients.find(layer->id);
      site.layers.push_back(
          {layer->id, weights.back().view(), gradient == gradients.end() ? nullptr : gradient->second.get()});
    }
    sites.push_back(std::move(site));
  }
  transform.see(sites);
}

// As many and as long as calibration takes by default.
Matrix<const int32_t> gradient_windows(Matrix<const int32_t> windows) {
  const CalibrationPlan defaults;
  return windows.rows_between(0, std::min(windows.rows, defaults.gradient_windows))
      .cols_between(0, std::min(windows.cols, defaults.gradient_context));
}

void show_blocks(const Transformer& transformer, const NamedTransform& named, Matrix<const int32_t> windows,
                 bool shows_progress) {
  const Model& model = transformer.model();
  CollectorNames names = named.transform->needs(), gradient_names;
  for (const std::string& name : names)
    if (is_gradient_statistic(name)) gradient_names.insert(name);
  std::erase_if(names, is_gradient_statistic);
  CalibrationStats gradients;
  if (!gradient_names.empty())
    gradients = collect_gradients(transformer, gradient_windows(windows), gradient_names);
  ResidualStream stream(transformer, windows);
  std::optional<Progress> progress;
  if (shows_progress)
    progress.emplace("transform " + named.name, stream.tokens() * transformer.blocks(), "tokens");
  for (int64_t i = 0; i < transformer.blocks(); ++i) {
    const auto sites = inputs_of(model.blocks[static_cast<size_t>(i)]);
    BlockCollectors collectors(transformer, sites, names);
    if (collectors.needs_drift())
      bad_input("transform '{}': statistics of drift do not exist for the float model", named.name);
    const auto linears = transformer.float_linears();
    ObservedLinears observed(
        *linears, [&](const LinearWeights& linear, ConstActivations x) { collectors.observe(linear, x); });
    const StreamSample sample(transformer, stream);
    for (size_t batch = 0; batch < stream.batches(); ++batch) {
      stream.run(i, batch, observed, ResidualStream::Output::keep);
      if (progress) progress->advance(stream.rows(batch));
    }
    show_block(transformer, sample, i, collectors.finish(), gradients, *named.transform);
  }
}

MatrixBuffer<float> logits_of(const Transformer& transformer, Matrix<const int32_t> windows) {
  const int64_t tokens = std::min(windows.cols, kCheckedTokens);
  const auto linears = transformer.float_linears();
  const Matrix<const int32_t> window(windows.data, 1, tokens);
  const Tensor features = transformer.run(Batch::of_windows(window, tokens), *linears);
  MatrixBuffer<float> logits(tokens, transformer.vocab());
  transformer.head(features, logits);
  return logits;
}

double relative_error(const MatrixBuffer<float>& found, const MatrixBuffer<float>& expected) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < expected.size(); ++i) {
    const double value = expected.data()[i], error = found.data()[i] - value;
    difference += error * error;
    norm += value * value;
  }
  return std::sqrt(norm > 0 ? difference / norm : difference);
}

}  // namespace

TransformedModel transform_model(const Model& model, const std::vector<NamedTransform>& transforms,
                                 Matrix<const int32_t> windows, uint64_t seed, bool shows_progress,
                                 const DeviceChoice& device) {
  check(windows.rows > 0 && windows.cols > 0, "a transform is checked on a window of tokens");
  TransformedModel result{model, 0};
  const DeviceChoice exact{device.device, device.index, Arithmetic::float32};
  const auto logits = [&](const Model& of) { return logits_of(*make_transformer(of, exact), windows); };
  const MatrixBuffer<float> expected = logits(model);
  for (const NamedTransform& named : transforms) {
    if (!named.transform->needs().empty())
      show_blocks(*make_transformer(result.model, device), named, windows, shows_progress);
    const TransformPlan plan = named.transform->plan(model.config.hidden, seed);
    result.model = apply_plan(result.model, plan, "transform '" + named.name + "'");
    result.logits_error = relative_error(logits(result.model), expected);
    if (!(result.logits_error <= kAllowedError))
      fail("transform '{}' changes the model: relative error {:.1e} of the logits, allowed is {:.0e}",
           named.name, result.logits_error, kAllowedError);
  }
  return result;
}

}  // namespace grinqh
