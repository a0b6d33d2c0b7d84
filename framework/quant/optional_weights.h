// What a policy is besides if it can prepare for a layer without its weights: they are floats, and making
// them takes longer than most that is done with them.
#pragma once

#include <string>

#include "quant/stats.h"

namespace grinqh {

class OptionalWeights {
 public:
  virtual ~OptionalWeights() = default;
  // Whether prepare() would look at the weights of the layer; if not, its task has their shape alone.
  virtual bool looks_at_weights(const std::string& layer, const LayerStats& stats) const = 0;
};

}  // namespace grinqh
