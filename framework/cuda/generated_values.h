// Values that are made where they are needed (core/generated_values.h).
#pragma once

#include "core/generated_values.h"
#include "cuda/types.h"

namespace grinqh::cuda {

// Element (r, c) of `to` becomes value r * cols + c, rounded to bfloat16 whatever the type.
void generate(const GeneratedValues& values, View to, Stream stream);

}  // namespace grinqh::cuda
