// Statistics of the loss's gradients at linear layers, from one backward pass of the float model.
#pragma once

#include "calib/calibrate.h"

namespace grinqh {

// Those of the names that gradient collectors stand for.
CollectorNames gradient_names(const CollectorNames& names);

// What the named gradient collectors make of the layers that match one of the patterns. windows: [count,
// context], each a sequence; they are taken in order, a few at a time, so that memory is that of
// runtime/backward.h for about 2048 tokens plus the collectors' own. Error naming the layer where something
// is not finite.
CalibrationStats collect_gradients(const Transformer& transformer, Matrix<const int32_t> windows,
                                   const CollectorNames& names,
                                   const std::vector<std::string>& layers = {"*"});

// Adds to the layers of `stats`, which were collected of inputs, what was collected of their gradients,
// without copying either.
void add_gradients(const CalibrationStats& gradients, CalibrationStats& stats);

}  // namespace grinqh
