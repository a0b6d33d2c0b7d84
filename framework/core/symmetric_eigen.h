// Eigenvectors of symmetric matrices, in float64 (LAPACK).
#pragma once

#include <vector>

#include "core/matrix.h"

namespace grinqh {

struct SymmetricEigen {
  std::vector<double> values;    // falling
  MatrixBuffer<double> vectors;  // row i belongs to values[i]; its component of largest size is positive
};

// a: [n, n], of which the upper triangle is read. Error if the iteration does not converge.
SymmetricEigen symmetric_eigen(Matrix<const double> a);

}  // namespace grinqh
