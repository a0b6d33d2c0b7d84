// Layout "dense16" in device memory and its kernel.
#pragma once

#include "cuda/types.h"

namespace grinqh::cuda {

// weights: [in][out] float16, or bfloat16 if `bf16`. out: [out, in]
void dequantize_dense(const uint16_t* weights, bool bf16, View out, Stream stream);

}  // namespace grinqh::cuda
