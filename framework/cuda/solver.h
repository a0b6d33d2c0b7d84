// Dense float64 factorizations (cuSOLVER) and float32 products (cuBLAS, without TF32) of row-major matrices
// on the device.
#pragma once

#include <cublas_v2.h>
#include <cusolverDn.h>

#include <vector>

#include "cuda/memory.h"
#include "cuda/types.h"

namespace grinqh::cuda {

// Of the device that is current when it is made; for one thread at a time.
class Solver {
 public:
  explicit Solver(Stream stream);
  ~Solver();
  Solver(const Solver&) = delete;
  Solver& operator=(const Solver&) = delete;

  // The lower triangle of a [n, n] becomes L with a = L L^T; false if a is not positive definite.
  bool factor(double* a, int64_t n);
  // The lower triangle L of a [n, n], a factor, becomes L^-1.
  void invert_lower(double* a, int64_t n) { invert_lower(a, n, n); }
  // Eigenvalues [n], rising, and vectors as rows in the place of a [n, n], whose upper triangle is read;
  // false if the iteration does not converge.
  bool eigenvectors(double* a, int64_t n, double* values);

  // y[M, N] = alpha op(a) op(b) + beta y; K is what op(a) and op(b) share. Views of f32.
  void multiply(ConstView a, bool transpose_a, ConstView b, bool transpose_b, View y, float alpha,
                float beta);
  // y_i[M, N] = a_i[M, K] b_i[N, K]^T for `count` of each: the views are the first ones, and the next one
  // begins so many elements later.
  struct Steps {
    int64_t a, b, y;
  };
  void multiply_nt(ConstView a, ConstView b, View y, int64_t count, const Steps& steps);

 private:
  void invert_lower(double* a, int64_t n, int64_t stride);
  void invert_small(double* a, int64_t n, int64_t stride);
  // Runs call(device workspace, its bytes, host workspace, its bytes, info) and says what info became.
  template <class Call>
  int with_workspace(size_t device_bytes, size_t host_bytes, const Call& call);

  Stream stream_;
  cusolverDnHandle_t solver_ = nullptr;
  cusolverDnParams_t parameters_ = nullptr;
  cublasHandle_t blas_ = nullptr;
};

}  // namespace grinqh::cuda
