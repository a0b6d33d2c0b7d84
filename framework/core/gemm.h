// Dense float32 products on the CPU. Those of a forward pass (nt, nn) are summed in the fixed order of
// core/ordered_product.h: a row of y depends on its row of x and on w alone, not on the other rows, the
// number of threads, or which of these functions computed it. The others are OpenBLAS's, one thread a call.
#pragma once

#include <string>

#include "core/matrix.h"

namespace grinqh {

enum class Output { overwrite, add };

// A matrix as a product takes it: as it is, or transposed.
struct Factor {
  Matrix<const float> matrix;
  bool transposed = false;
  int64_t rows() const { return transposed ? matrix.cols : matrix.rows; }
  int64_t cols() const { return transposed ? matrix.rows : matrix.cols; }
};

// y[T, N] = x[T, K] w[N, K]^T (or +=): a linear layer without bias.
void matmul_nt(Matrix<const float> x, Matrix<const float> w, Matrix<float> y,
               Output output = Output::overwrite);

// y[T, N] = x[T, K] w[K, N] (or +=).
void matmul_nn(Matrix<const float> x, Matrix<const float> w, Matrix<float> y,
               Output output = Output::overwrite);

// The same on the calling thread only, for use inside a parallel task.
void matmul_nt_serial(Matrix<const float> x, Matrix<const float> w, Matrix<float> y,
                      Output output = Output::overwrite);
void matmul_nn_serial(Matrix<const float> x, Matrix<const float> w, Matrix<float> y,
                      Output output = Output::overwrite);

// y[K, N] = x[T, K]^T w[T, N] (or +=), times scale, on the calling thread.
void matmul_tn_serial(Matrix<const float> x, Matrix<const float> w, Matrix<float> y, float scale = 1.0f,
                      Output output = Output::overwrite);

// Products of methods, which no forward pass depends on: by the installed accelerator (core/accelerator.h)
// where one is and the product repays the way there, at 2^32 operations and 64 a byte of its matrices, else
// by the functions above. y[T, N] = x[T, K] w[N, K]^T (or +=).
void product_nt(Matrix<const float> x, Matrix<const float> w, Matrix<float> y,
                Output output = Output::overwrite);
// y[T, N] = x[T, K] w[K, N] (or +=).
void product_nn(Matrix<const float> x, Matrix<const float> w, Matrix<float> y,
                Output output = Output::overwrite);
// y[K, N] = x[T, K]^T w[T, N] (or +=).
void product_tn(Matrix<const float> x, Matrix<const float> w, Matrix<float> y,
                Output output = Output::overwrite);

// sum += x^T x, accumulated in float64 from float32 products over at most a batch. x: [T, K]; sum: [K, K], of
// which the upper triangle is kept.
void add_gram(Matrix<const float> x, Matrix<double> sum);
// sum += left^T right in the same way, all of it. left, right: [T, K].
void add_cross_gram(Matrix<const float> left, Matrix<const float> right, Matrix<double> sum);

// Seconds that OpenBLAS itself takes for y = x w^T on all threads(): the yardstick of `grinqh bench forward`.
double time_blas_sgemm(int64_t tokens, int64_t in, int64_t out, int repetitions);

// The library and the kernels that it chose for this processor.
std::string blas_version();

}  // namespace grinqh
