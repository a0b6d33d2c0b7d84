// Collectors at the inputs of one decoder block's linear layers.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/model.h"
#include "quant/stats.h"
#include "runtime/transformer.h"

namespace grinqh {

// By layer id; layers that share an input share their statistics.
using CalibrationStats = std::map<std::string, std::shared_ptr<const LayerStats>, std::less<>>;

// `stats` with the values of `more` added. Both have the same layers, or `stats` has none: it then shares
// them. Neither is copied.
void add_statistics(const CalibrationStats& more, CalibrationStats& stats);

// Of two sets of tokens: the statistics of both together, for layers and names that both have. Names that no
// collector of inputs has (those of drift and of gradients) are means over tokens.
CalibrationStats merge_statistics(const CalibrationStats& a, const CalibrationStats& b);

// The seven linear layers of a block, grouped by the input they share, in the order in which they run.
std::vector<std::vector<const LinearWeights*>> inputs_of(const BlockWeights& block);

class BlockCollectors {
 public:
  // sites: groups of layers that share an input. BadInput for a name that no collector has. The transformer,
  // whose activations are observed, outlives the collectors.
  BlockCollectors(const Transformer& transformer, const std::vector<std::vector<const LinearWeights*>>& sites,
                  const CollectorNames& names);

  bool empty() const { return sites_.empty(); }
  // Whether a collector compares with the inputs that the float model has.
  bool needs_drift() const;

  // The first layer of a site shows the input of all of them; other layers are passed over.
  bool watches(const LinearWeights& linear) const;
  void observe(const LinearWeights& linear, ConstActivations x);
  void observe_drift(const LinearWeights& linear, ConstActivations x, ConstActivations x_float);

  // Error naming the layer for a statistic that is not finite.
  CalibrationStats finish();

 private:
  struct Site {
    std::vector<const LinearWeights*> layers;
    std::map<std::string, std::unique_ptr<Collector>, std::less<>> collectors;
    std::map<std::string, std::unique_ptr<DriftCollector>, std::less<>> drift_collectors;
    int64_t tokens = 0;
  };
  Site* find(const LinearWeights& linear);

  const Transformer& transformer_;
  std::vector<Site> sites_;
};

}  // namespace grinqh
