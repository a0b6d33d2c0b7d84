// The CPU kernel that any layout can register: weights are dequantized level by level and multiplied for all
// tokens of a batch at once. A token gets the same bits alone as in any batch.
#pragma once

#include "quant/kernel_table.h"

namespace grinqh {

// y = sum over the layer's levels b_1 < b_2 < ... of (x o [level >= b_k]) (D_k - D_(k-1))^T with D_0 = 0
// (DESIGN.md section 5). The cost of a level follows the share of channels that reach it: tiles of tokens
// multiply only by the columns that one of their tokens reads.
void forward_by_levels(const QuantizedLinear& linear, const ForwardArgs& args);

}  // namespace grinqh
