// The backward pass of the float model: gradients of the next-token loss at every linear layer.
//
// Memory for R rows of a batch: the residual stream before each block (blocks + 1 times R x hidden floats),
// and one block's intermediates, which are computed again from it (about R x (5 hidden + 3 intermediate
// + 6 heads x head_dim) floats); one weight matrix at a time as float32, and 256 rows of logits.
#pragma once

#include <vector>

#include "runtime/transformer.h"

namespace grinqh {

// The loss of a sequence is the cross-entropy in nats of its tokens after the first, summed; what is
// differentiated is the sum over all sequences, which must be whole (past = 0). Shows the observer every
// linear layer of the blocks, the last block's down projection first, and returns the loss of each sequence.
// Error naming the layer whose output or gradient is not finite.
inline std::vector<double> run_backward(const Transformer& transformer, const Batch& batch,
                                        const GradientObserver& observe) {
  return transformer.backward(batch, observe);
}

}  // namespace grinqh
