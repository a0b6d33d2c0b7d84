#include "calib/gradients.h"

#include <algorithm>

#include "calib/make_collector.h"
#include "core/dtype.h"
#include "core/progress.h"
#include "core/text.h"
#include "core/timed_scope.h"
#include "quant/gradient_collector.h"
#include "runtime/backward.h"

namespace grinqh {

namespace {

using LayerCollectors = std::map<std::string, std::unique_ptr<GradientCollector>, std::less<>>;

std::shared_ptr<const LayerStats> finish(const std::string& layer, const LayerCollectors& collectors,
                                         int64_t tokens) {
  auto stats = std::make_shared<LayerStats>();
  stats->tokens = tokens;
  for (const auto& [name, collector] : collectors) {
    PlainVector<float> values = collector->finish();
    if (!all_finite(values)) fail("{}: statistic '{}' is not finite", layer, name);
    stats->values.emplace(name, std::move(values));
  }
  return stats;
}

std::vector<std::string> covered_layers(const Transformer& transformer, int64_t block,
                                        const std::vector<std::string>& patterns) {
  std::vector<std::string> covered;
  for (const auto& site : inputs_of(transformer.model().blocks[static_cast<size_t>(block)]))
    for (const LinearWeights* layer : site)
      if (std::ranges::any_of(patterns, [&](const auto& each) { return glob_match(each, layer->id); }))
        covered.push_back(layer->id);
  return covered;
}

}  // namespace

bool is_gradient_statistic(const std::string& name) {
  return Registry<GradientCollector>::get().contains(name);
}

CalibrationStats collect_gradients(const Transformer& transformer, Matrix<const int32_t> windows,
                                   const CollectorNames& names, const std::vector<std::string>& layers) {
  const TimedScope timed("gradients");
  check(windows.cols >= 2, "a window of gradients has a token to predict");
  std::map<std::string, LayerCollectors, std::less<>> collectors;  // by layer
  for (int64_t block = 0; block < transformer.blocks(); ++block)
    for (const std::string& layer : covered_layers(transformer, block, layers))
      for (const std::string& name : names)
        collectors[layer].emplace(name, make_gradient_collector(name, transformer));

  const int64_t tokens = windows.rows * windows.cols;
  Progress progress("gradients", tokens, "tokens");
  const int64_t step = std::max<int64_t>(1, transformer.gradient_tokens() / windows.cols);
  for (int64_t w = 0; w < windows.rows; w += step) {
    const Batch batch =
        Batch::of_windows(windows.rows_between(w, std::min(w + step, windows.rows)), windows.cols);
    run_backward(transformer, batch,
                 [&](const LinearWeights& linear, ConstActivations x, ConstActivations dy) {
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
  const TimedScope fetched("gradients are fetched");
  CalibrationStats stats;
  for (const auto& [layer, each] : collectors) stats.emplace(layer, finish(layer, each, tokens));
  return stats;
}

CalibrationStats stored_gradients(const Transformer& transformer, Matrix<const int32_t> windows,
                                  const CollectorNames& names, const std::vector<std::string>& layers,
                                  const StatisticsStore* store) {
  if (!store) return collect_gradients(transformer, windows, names, layers);
  std::vector<CalibrationStats> stored;  // by block
  CollectorNames missing;
  for (int64_t block = 0; block < transformer.blocks(); ++block) {
    stored.push_back(store->load(block));
    for (const std::string& layer : covered_layers(transformer, block, layers)) {
      const auto found = stored.back().find(layer);
      for (const std::string& name : names)
        if (found == stored.back().end() || !found->second->has(name)) missing.insert(name);
    }
  }
  CalibrationStats collected;
  if (!missing.empty()) collected = collect_gradients(transformer, windows, missing, layers);
  CalibrationStats all;
  for (int64_t block = 0; block < transformer.blocks(); ++block) {
    CalibrationStats of_block, &known = stored[static_cast<size_t>(block)];
    for (const std::string& layer : covered_layers(transformer, block, layers))
      if (auto found = collected.extract(layer)) of_block.insert(std::move(found));
    if (!of_block.empty()) {
      store->save(block, of_block);
      add_statistics(of_block, known);
    }
    all.merge(known);
  }
  return all;
}

void add_gradients(const std::vector<std::vector<const LinearWeights*>>& sites,
                   const CalibrationStats& gradients, CalibrationStats& stats) {
  for (const auto& site : sites)
    for (const LinearWeights* layer : site) {
      const auto gradient = gradients.find(layer->id);
      if (gradient == gradients.end()) continue;
      std::shared_ptr<const LayerStats>& all = stats[layer->id];
      if (!all) {
        all = gradient->second;
        continue;
      }
      auto both = std::make_shared<LayerStats>();
      both->tokens = all->tokens;
      both->parts = {all, gradient->second};
      all = std::move(both);
    }
}

}  // namespace grinqh
