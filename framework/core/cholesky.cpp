#include "core/cholesky.h"

#include <algorithm>
#include <vector>

#include "core/accelerator.h"
#include "core/error.h"

// LAPACK, which OpenBLAS carries; column-major, so that "L" of ours is its "U".
extern "C" {
void dpotrf_(const char* triangle, const int* n, double* a, const int* stride, int* info);
void dpotri_(const char* triangle, const int* n, double* a, const int* stride, int* info);
}

namespace grinqh {

namespace {

// The row-major upper triangle of `a` is what LAPACK sees as the lower one, transposed.
bool factor(std::vector<double>& a, int n) {
  int info = 0;
  dpotrf_("L", &n, a.data(), &n, &info);
  return info == 0;
}

// a = upper triangle of h, damped.
std::vector<double> damped(Matrix<const float> h, double added) {
  const auto n = static_cast<size_t>(h.rows);
  std::vector<double> a(n * n, 0.0);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = i; j < n; ++j) a[i * n + j] = h(static_cast<int64_t>(i), static_cast<int64_t>(j));
    a[i * n + i] += added;
  }
  return a;
}

}  // namespace

InverseFactor inverse_cholesky(Matrix<const float> h, double damping) {
  check(h.rows == h.cols && h.rows > 0, "second moments are square");
  if (const auto installed = accelerator()) return installed->inverse_cholesky(h, damping);
  double mean = 0;
  for (int64_t i = 0; i < h.rows; ++i) mean += static_cast<double>(h(i, i)) / static_cast<double>(h.rows);
  const int n = static_cast<int>(h.rows);
  for (;; damping = next_damping(damping)) {
    std::vector<double> a = damped(h, damping * mean);
    int info = 0;
    if (!factor(a, n)) continue;
    dpotri_("L", &n, a.data(), &n, &info);  // a = inverse, upper triangle
    // Row-major upper U with inverse = U^T U: LAPACK's lower factor L of L L^T, seen transposed.
    if (info != 0 || !factor(a, n)) continue;
    InverseFactor result{MatrixBuffer<float>::zeroed(n, n), damping};
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = i; j < n; ++j)
        result.upper.row(i)[j] = static_cast<float>(a[static_cast<size_t>(i * n + j)]);
    return result;
  }
}

double next_damping(double damping) {
  const double next = std::max(damping * 10, 1e-6);
  if (next > 1.0)
    fail("the second moments of the inputs are not positive definite, even with their mean diagonal added");
  return next;
}

}  // namespace grinqh
