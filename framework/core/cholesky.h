// Cholesky factors of second-moment matrices, in float64 (LAPACK, or the installed accelerator).
#pragma once

#include "core/matrix.h"

namespace grinqh {

struct InverseFactor {
  MatrixBuffer<float> upper;  // U with H^-1 = U^T U, H damped; [n, n], zeros below the diagonal
  double damping = 0;         // the share of the mean diagonal that was added in the end
};

// Factor of the inverse of h + damping mean(diag h) I. Where the factorization fails the damping grows
// tenfold, at most to 1; Error beyond. h: [n, n], symmetric, both halves filled.
InverseFactor inverse_cholesky(Matrix<const float> h, double damping);

// The damping that is tried after this one, by whichever processor; Error if there is none.
double next_damping(double damping);

}  // namespace grinqh
