// How long cuBLASLt takes for a product by itself: the yardstick of forward passes.
#pragma once

#include "cuda/context.h"

namespace grinqh::cuda {

// Seconds of y = x w^T in the context's type, x: [tokens, in], w: [out, in], random.
double time_product(const Context& context, int64_t tokens, int64_t in, int64_t out);

}  // namespace grinqh::cuda
