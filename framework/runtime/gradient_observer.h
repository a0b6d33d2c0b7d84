// Who sees the gradients of a backward pass.
#pragma once

#include <functional>

#include "core/tensor.h"
#include "model/model.h"

namespace grinqh {

// Gets a linear layer's inputs x [rows, in] and the gradients dy [rows, out] of the loss in its outputs, for
// all rows of a batch, where the transformer keeps them. dy of a sequence's last token is zero: it predicts
// nothing.
using GradientObserver =
    std::function<void(const LinearWeights& linear, ConstActivations x, ConstActivations dy)>;

}  // namespace grinqh
