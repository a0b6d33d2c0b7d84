// Eigenvectors of symmetric matrices, in float64 (LAPACK, or the installed accelerator).
#pragma once

#include <span>
#include <vector>

#include "core/matrix.h"

namespace grinqh {

struct SymmetricEigen {
  std::vector<double> values;    // falling
  MatrixBuffer<double> vectors;  // row i belongs to values[i]; its component of largest size is positive
};

// a: [n, n], of which the upper triangle is read. Error if the iteration does not converge.
SymmetricEigen symmetric_eigen(Matrix<const double> a);

// The same from values that rise, as solvers give them, and vectors of any sign: row i belongs to rising[i].
SymmetricEigen falling_eigen(std::span<const double> rising, Matrix<const double> vectors);

}  // namespace grinqh
