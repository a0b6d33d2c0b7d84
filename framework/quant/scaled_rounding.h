// Rounding to nearest of weights whose inputs were scaled: a transform's question to a module.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "core/matrix.h"

namespace grinqh {

struct ScaledRounding {
  std::span<const float> scales;  // [in], above 0
  int bits;                       // 2..8
  int64_t group;  // consecutive inputs of a row that share an asymmetric grid; its last group may be short
};

// What W diag(s) rounds to, seen from the inputs as they are: Q(W diag(s)) diag(1 / s). w: [out, in].
// BadInput naming the layer if a grid's scale does not fit into float16.
MatrixBuffer<float> round_scaled(Matrix<const float> w, const std::string& layer,
                                 const ScaledRounding& rounding);

}  // namespace grinqh
