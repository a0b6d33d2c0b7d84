#include "core/symmetric_eigen.h"

#include <gtest/gtest.h>

#include "numbers.h"

namespace grinqh {
namespace {

TEST(SymmetricEigen, VectorsDiagonalizeTheMatrix) {
  constexpr int64_t kSize = 13;
  const MatrixBuffer<float> random = testing::random_matrix(kSize, kSize, 1);
  MatrixBuffer<double> a(kSize, kSize);
  for (int64_t i = 0; i < kSize; ++i)
    for (int64_t j = 0; j < kSize; ++j) a.row(i)[j] = random.row(std::min(i, j))[std::max(i, j)];
  const SymmetricEigen eigen = symmetric_eigen(a.view());
  EXPECT_TRUE(std::is_sorted(eigen.values.rbegin(), eigen.values.rend()));
  for (int64_t k = 0; k < kSize; ++k) {
    const double* v = eigen.vectors.row(k);
    for (int64_t i = 0; i < kSize; ++i) {
      double image = 0;
      for (int64_t j = 0; j < kSize; ++j) image += a.row(i)[j] * v[j];
      EXPECT_NEAR(image, eigen.values[static_cast<size_t>(k)] * v[i], 1e-12);
    }
    for (int64_t other = 0; other < kSize; ++other) {
      double product = 0;
      for (int64_t j = 0; j < kSize; ++j) product += v[j] * eigen.vectors.row(other)[j];
      EXPECT_NEAR(product, k == other ? 1.0 : 0.0, 1e-12);
    }
    EXPECT_GT(*std::max_element(v, v + kSize, [](double x, double y) { return std::abs(x) < std::abs(y); }),
              0);
  }
}

TEST(SymmetricEigen, ByHandAndFromTheUpperTriangleAlone) {
  MatrixBuffer<double> a(2, 2);
  a.row(0)[0] = a.row(1)[1] = 2;
  a.row(0)[1] = 1;
  a.row(1)[0] = 77;
  const SymmetricEigen eigen = symmetric_eigen(a.view());
  EXPECT_NEAR(eigen.values[0], 3, 1e-14);
  EXPECT_NEAR(eigen.values[1], 1, 1e-14);
  EXPECT_NEAR(eigen.vectors.row(0)[0], std::sqrt(0.5), 1e-14);
  EXPECT_NEAR(eigen.vectors.row(0)[1], std::sqrt(0.5), 1e-14);
}

}  // namespace
}  // namespace grinqh
