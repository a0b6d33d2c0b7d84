#include "core/symmetric_eigen.h"

#include <cblas.h>

#include <algorithm>
#include <cmath>

#include "core/accelerator.h"
#include "core/error.h"

extern "C" {
void dsyevd_(const char* job, const char* triangle, const int* n, double* a, const int* stride,
             double* values, double* work, const int* work_size, int* integers, const int* integers_size,
             int* info);
}

namespace grinqh {

SymmetricEigen symmetric_eigen(Matrix<const double> a) {
  check(a.rows == a.cols && a.rows > 0, "eigenvectors are those of a square matrix");
  if (const auto installed = accelerator()) return installed->symmetric_eigen(a);
  const int n = static_cast<int>(a.rows);
  // Column-major: the upper triangle of ours is what LAPACK sees as the lower one.
  std::vector<double> vectors(static_cast<size_t>(a.rows * a.cols)), rising(static_cast<size_t>(n));
  for (int64_t i = 0; i < a.rows; ++i)
    for (int64_t j = i; j < a.cols; ++j) vectors[static_cast<size_t>(i * a.cols + j)] = a(i, j);

  openblas_set_num_threads(1);  // the same bits on any number of cores
  double work_size = 0;
  int integers_size = 0, info = 0;
  constexpr int kAsk = -1;
  dsyevd_("V", "L", &n, vectors.data(), &n, rising.data(), &work_size, &kAsk, &integers_size, &kAsk, &info);
  std::vector<double> work(static_cast<size_t>(work_size));
  std::vector<int> integers(static_cast<size_t>(integers_size));
  const int size = static_cast<int>(work.size());
  dsyevd_("V", "L", &n, vectors.data(), &n, rising.data(), work.data(), &size, integers.data(),
          &integers_size, &info);
  if (info != 0) fail("the eigenvectors of a {} x {} matrix were not found (LAPACK dsyevd: {})", n, n, info);

  return falling_eigen(rising, {vectors.data(), n, n});
}

SymmetricEigen falling_eigen(std::span<const double> rising, Matrix<const double> vectors) {
  const int64_t n = vectors.rows;
  SymmetricEigen result{{rising.rbegin(), rising.rend()}, MatrixBuffer<double>(n, n)};
  for (int64_t i = 0; i < n; ++i) {
    const double* vector = vectors.row(n - 1 - i);
    const double* largest =
        std::max_element(vector, vector + n, [](double x, double y) { return std::abs(x) < std::abs(y); });
    const double sign = *largest < 0 ? -1.0 : 1.0;
    for (int64_t j = 0; j < n; ++j) result.vectors.row(i)[j] = sign * vector[j];
  }
  return result;
}

}  // namespace grinqh
