// How far a product is from the one of the dequantized weights in float64: what every kernel is held to.
#pragma once

#include "core/matrix.h"
#include "quant/precision.h"
#include "quant/quantized_linear.h"

namespace grinqh {

// x W^T with W as `precision` reads it. x: [tokens, in]; the result: [tokens, out].
MatrixBuffer<double> exact_product(const QuantizedLinear& layer, const Precision& precision,
                                   Matrix<const float> x);

// The greatest ||y - exact|| / ||exact|| of a token; infinite if y holds what is no number.
double product_error(Matrix<const float> y, Matrix<const double> exact);

}  // namespace grinqh
