#include "core/cholesky.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "numbers.h"

namespace grinqh {
namespace {

// x^T x / rows, positive definite if rows > cols.
MatrixBuffer<float> moments(int64_t rows, int64_t cols) {
  const MatrixBuffer<float> x = testing::random_matrix(rows, cols, 1);
  MatrixBuffer<float> h(cols, cols);
  for (int64_t i = 0; i < cols; ++i)
    for (int64_t j = 0; j < cols; ++j) {
      double sum = 0;
      for (int64_t t = 0; t < rows; ++t)
        sum += static_cast<double>(x.row(t)[i]) * static_cast<double>(x.row(t)[j]);
      h.row(i)[j] = static_cast<float>(sum / static_cast<double>(rows));
    }
  return h;
}

TEST(InverseCholesky, FactorsTheInverseOfTheDampedMatrix) {
  constexpr int64_t kSize = 23;
  const MatrixBuffer<float> h = moments(100, kSize);
  const InverseFactor factor = inverse_cholesky(h, 0.01);
  EXPECT_EQ(factor.damping, 0.01);
  double mean = 0;
  for (int64_t i = 0; i < kSize; ++i) mean += static_cast<double>(h.row(i)[i]) / kSize;
  // U^T U (H + damping) must be the identity.
  for (int64_t i = 0; i < kSize; ++i)
    for (int64_t j = 0; j < kSize; ++j) {
      if (j < i) {
        EXPECT_EQ(factor.upper.row(i)[j], 0.0f);
      }
      double product = 0;
      for (int64_t k = 0; k < kSize; ++k) {
        double inverse = 0;
        for (int64_t m = 0; m < kSize; ++m)
          inverse +=
              static_cast<double>(factor.upper.row(m)[i]) * static_cast<double>(factor.upper.row(m)[k]);
        product += inverse * (static_cast<double>(h.row(k)[j]) + (k == j ? 0.01 * mean : 0.0));
      }
      EXPECT_NEAR(product, i == j ? 1.0 : 0.0, 1e-5) << i << " " << j;
    }
}

TEST(InverseCholesky, DampsMoreWhereTheFactorizationFails) {
  MatrixBuffer<float> h = moments(100, 8);
  h.row(3)[3] = -0.01f;  // slightly indefinite, as float32 statistics may be
  const InverseFactor factor = inverse_cholesky(h, 0.001);
  EXPECT_GT(factor.damping, 0.001);
  EXPECT_LE(factor.damping, 1.0);
  h.row(3)[3] = -100.0f;
  EXPECT_THROW(inverse_cholesky(h, 0.001), Error);
}

}  // namespace
}  // namespace grinqh
