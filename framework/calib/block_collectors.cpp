#include "calib/block_collectors.h"

#include <algorithm>

#include "calib/make_collector.h"
#include "core/dtype.h"
#include "core/timed_scope.h"

namespace grinqh {

std::vector<std::vector<const LinearWeights*>> inputs_of(const BlockWeights& block) {
  return {{&block.q, &block.k, &block.v}, {&block.o}, {&block.gate, &block.up}, {&block.down}};
}

void add_statistics(const CalibrationStats& more, CalibrationStats& stats) {
  if (stats.empty()) {
    stats = more;
    return;
  }
  std::map<const LayerStats*, std::shared_ptr<const LayerStats>> joined;
  for (const auto& [id, added] : more) {
    std::shared_ptr<const LayerStats>& joint = joined[added.get()];
    if (!joint) {
      auto both = std::make_shared<LayerStats>();
      both->tokens = added->tokens;
      if (const auto present = stats.find(id); present != stats.end()) both->parts.push_back(present->second);
      both->parts.push_back(added);
      joint = std::move(both);
    }
    stats.insert_or_assign(id, joint);
  }
}

CalibrationStats merge_statistics(const CalibrationStats& a, const CalibrationStats& b) {
  CalibrationStats merged;
  std::map<const LayerStats*, std::shared_ptr<const LayerStats>> known;  // layers that share an input
  for (const auto& [id, first] : a) {
    const auto second = b.find(id);
    if (second == b.end()) continue;
    std::shared_ptr<const LayerStats>& joint = known[first.get()];
    if (!joint) {
      auto both = std::make_shared<LayerStats>();
      both->tokens = first->tokens + second->second->tokens;
      for (const auto& [name, values] : first->values) {
        const auto other = second->second->values.find(name);
        if (other == second->second->values.end()) continue;
        const bool of_inputs = Registry<Collector>::get().contains(name);
        const Merge how = of_inputs ? Registry<Collector>::get().make(name)->merge() : Merge::mean;
        both->values.emplace(
            name, merge_values(how, {values, first->tokens}, {other->second, second->second->tokens}));
      }
      joint = std::move(both);
    }
    merged.insert_or_assign(id, joint);
  }
  return merged;
}

BlockCollectors::BlockCollectors(const Transformer& transformer,
                                 const std::vector<std::vector<const LinearWeights*>>& sites,
                                 const CollectorNames& names)
    : transformer_(transformer) {
  if (names.empty()) return;
  for (const auto& layers : sites) {
    Site& site = sites_.emplace_back();
    site.layers = layers;
    for (const std::string& name : names) {
      if (Registry<DriftCollector>::get().contains(name))
        site.drift_collectors.emplace(name, make_drift_collector(name, transformer));
      else
        site.collectors.emplace(name, make_collector(name, transformer));
    }
  }
}

bool BlockCollectors::needs_drift() const {
  return std::ranges::any_of(sites_, [](const Site& site) { return !site.drift_collectors.empty(); });
}

BlockCollectors::Site* BlockCollectors::find(const LinearWeights& linear) {
  const auto site = std::ranges::find(sites_, &linear, [](const Site& each) { return each.layers.front(); });
  return site == sites_.end() ? nullptr : &*site;
}

bool BlockCollectors::watches(const LinearWeights& linear) const {
  return std::ranges::any_of(sites_, [&](const Site& site) { return site.layers.front() == &linear; });
}

void BlockCollectors::observe(const LinearWeights& linear, ConstActivations x) {
  Site* site = find(linear);
  if (!site) return;
  // A histogram or a maximum could swallow them.
  if (!transformer_.all_finite(x)) fail("{}: an input is not finite on the calibration text", linear.id);
  site->tokens += x.rows;
  for (auto& [name, collector] : site->collectors) collector->observe(x);
}

void BlockCollectors::observe_drift(const LinearWeights& linear, ConstActivations x,
                                    ConstActivations x_float) {
  Site* site = find(linear);
  if (!site) return;
  for (auto& [name, collector] : site->drift_collectors) collector->observe(x, x_float);
}

CalibrationStats BlockCollectors::finish() {
  const TimedScope timed("statistics are fetched");
  CalibrationStats stats;
  for (Site& site : sites_) {
    auto layer_stats = std::make_shared<LayerStats>();
    layer_stats->tokens = site.tokens;
    layer_stats->derived = std::make_shared<Derived>();
    const auto add = [&](const std::string& name, PlainVector<float> values) {
      if (!all_finite(values)) fail("{}: statistic '{}' is not finite", site.layers.front()->id, name);
      layer_stats->values.emplace(name, std::move(values));
    };
    for (auto& [name, collector] : site.collectors) add(name, collector->finish());
    for (auto& [name, collector] : site.drift_collectors) add(name, collector->finish());
    for (const LinearWeights* layer : site.layers) stats.insert_or_assign(layer->id, layer_stats);
  }
  return stats;
}

}  // namespace grinqh
