// The way to and from the triangular solver of the inverse Cholesky factor. With J the matrix that reverses
// the order, J (H + added I) J = L L^T gives H + added I = R R^T for the upper R = J L J, and so the factor
// U = R^-1 = J L^-1 J of the inverse, (H + added I)^-1 = U^T U, without forming the inverse.
#pragma once

#include "cuda/types.h"

namespace grinqh::cuda {

// to = J (h + added I) J in float64, of which the upper triangle of h [n, n] is read and the lower one of
// `to` [n, n] is written; zeros above it, since cuSOLVER's potrf loads whole tiles.
void reverse_damped(const float* h, int64_t n, double added, double* to, Stream stream);

// upper = J lower J in float32, zeros below the diagonal. Both [n, n].
void reverse_factor(const double* lower, int64_t n, float* upper, Stream stream);

}  // namespace grinqh::cuda
