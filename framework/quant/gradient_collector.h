// Statistics of the loss's gradients at one linear layer y = x W^T.
#pragma once

#include <string_view>

#include "core/plain_vector.h"
#include "core/tensor.h"

namespace grinqh {

// Sees one linear layer, one whole sequence after the other; registered by name like every plugin, and asked
// for by that name beside the collectors of inputs. The result must not depend on the number of threads.
class GradientCollector {
 public:
  static constexpr std::string_view kind = "gradient collector";
  virtual ~GradientCollector() = default;
  // x: [tokens, in], dy: [tokens, out], the gradient in y of the sequence's next-token cross-entropy, summed
  // over its tokens - 1 predictions. The gradient in W is dy^T x; the last token predicts nothing.
  virtual void observe(ConstActivations x, ConstActivations dy) = 0;
  virtual PlainVector<float> finish() = 0;
};

}  // namespace grinqh
