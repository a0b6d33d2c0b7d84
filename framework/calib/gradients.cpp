#include "calib/gradients.h"

#include <algorithm>
#include <cmath>

#include "core/progress.h"
#include "core/registry.h"
#include "core/text.h"
#include "quant/gradient_collector.h"
#include "runtime/backward.h"

namespace grinqh {

namespace {

constexpr int64_t kBatchTokens = 2048;

using LayerCollectors = std::map<std::string, std::unique_ptr<GradientCollector>, std::less<>>;

std::shared_ptr<const LayerStats> finish(const std::string& layer, const LayerCollectors& collectors,
                                         int64_t tokens) {
  auto stats = std::make_shared<LayerStats>();
  stats->tokens = tokens;
  for (const auto& [name, collector] : collectors) {
    std::vector<float> values = collector->finish();
    if (!std::ranges::all_of(values, [](float value) { return std::isfinite(value); }))
      fail("{}: statistic '{}' is not finite", layer, name);
    stats->values.emplace(name, std::move(values));
  }
  return stats;
}

}  // namespace

CollectorNames gradient_names(const CollectorNames& names) {
  CollectorNames found;
  std::ranges::copy_if(names, std::inserter(found, found.end()), [](const std::string& name) {
    return Registry<GradientCollector>::get().contains(name);
  });
  return found;
}

CalibrationStats collect_gradients(const Transformer& transformer, Matrix<const int32_t> windows,
                                   const CollectorNames& names, const std::vector<std::string>& layers) {
  check(windows.cols >= 2, "a window of gradients has a token to predict");
  std::map<std::string, LayerCollectors, std::less<>> collectors;  // by layer
  for (const BlockWeights& block : transformer.model().blocks)
    for (const auto& site : inputs_of(block))
      for (const LinearWeights* layer : site)
        if (std::ranges::any_of(layers, [&](const auto& each) { return glob_match(each, layer->id); }))
          for (const std::string& name : names)
            collectors[layer->id].emplace(name, Registry<GradientCollector>::get().make(name));

  const int64_t tokens = windows.rows * windows.cols;
  Progress progress("gradients", tokens, "tokens");
  const int64_t step = std::max<int64_t>(1, kBatchTokens / windows.cols);
  for (int64_t w = 0; w < windows.rows; w += step) {
    const Batch batch =
        Batch::of_windows(windows.rows_between(w, std::min(w + step, windows.rows)), windows.cols);
    run_backward(transformer, batch,
                 [&](const LinearWeights& linear, Matrix<const float> x, Matrix<const float> dy) {
                   const auto found = collectors.find(linear.id);
                   if (found == collectors.end()) return;
                   for (const SequenceRows& rows : batch.sequences) {
                     const int64_t begin = rows.first_row, end = begin + rows.count;
                     for (auto& [name, collector] : found->second)
                       collector->observe(x.rows_between(begin, end), dy.rows_between(begin, end));
                   }
                 });
    progress.advance(batch.rows());
  }
  CalibrationStats stats;
  for (const auto& [layer, each] : collectors) stats.emplace(layer, finish(layer, each, tokens));
  return stats;
}

void add_gradients(const CalibrationStats& gradients, CalibrationStats& stats) {
  for (auto& [layer, all] : stats) {
    const auto gradient = gradients.find(layer);
    if (gradient == gradients.end()) continue;
    auto both = std::make_shared<LayerStats>();
    both->tokens = all->tokens;
    both->parts = {all, gradient->second};
    all = std::move(both);
  }
}

}  // namespace grinqh
