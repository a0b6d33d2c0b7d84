// Statistics of the loss's gradients at linear layers, from one backward pass of the float model.
#pragma once

#include <string>
#include <vector>

#include "calib/block_collectors.h"
#include "calib/calibrate.h"

namespace grinqh {

// Whether a gradient collector has the name.
bool is_gradient_statistic(const std::string& name);

// What the named gradient collectors make of the layers that match one of the patterns. windows: [count,
// context], each a sequence; they are taken in order, a few at a time, so that memory is that of
// runtime/backward.h for about gradient_tokens() of them plus the collectors' own. Error naming the layer
// where something is not finite.
CalibrationStats collect_gradients(const Transformer& transformer, Matrix<const int32_t> windows,
                                   const CollectorNames& names,
                                   const std::vector<std::string>& layers = {"*"});

// The same from the store as far as it has them, which gets the rest. Null: everything is collected.
CalibrationStats stored_gradients(const Transformer& transformer, Matrix<const int32_t> windows,
                                  const CollectorNames& names, const std::vector<std::string>& layers,
                                  const StatisticsStore* store);

// Adds to `stats`, which were collected of the sites' inputs, those of their layers' gradients, without
// copying either.
void add_gradients(const std::vector<std::vector<const LinearWeights*>>& sites,
                   const CalibrationStats& gradients, CalibrationStats& stats);

}  // namespace grinqh
