// Products against float64 sums on the host.
#include <gtest/gtest.h>

#include <cmath>

#include "cuda/gemm.h"
#include "cuda/gpu.h"
#include "cuda/typed_matrix.h"

namespace grinqh {
namespace {

using cuda::Type;
using testing::random_of;
using testing::TypedMatrix;

struct Shape {
  Type in, out;
  int64_t rows, cols, inner;
  float beta;
};

class CudaGemm : public ::testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  }

  // left(r, k) and right(c, k) say how the operands are stored.
  template <class Left, class Right>
  void expect(const MatrixBuffer<float>& found, const MatrixBuffer<float>& before, const Left& left,
              const Right& right) {
    const Shape& s = GetParam();
    for (int64_t r = 0; r < s.rows; r += 1 + s.rows / 40)
      for (int64_t c = 0; c < s.cols; c += 1 + s.cols / 50) {
        double sum = 0, size = 0;
        for (int64_t k = 0; k < s.inner; ++k) {
          const double term = static_cast<double>(left(r, k)) * static_cast<double>(right(c, k));
          sum += term;
          size += term * term;
        }
        const double expected =
            kAlpha * sum + (s.beta == 0 ? 0 : static_cast<double>(s.beta * before.row(r)[c]));
        // No TF32: its products are off by 2^-11 of a term each.
        const double bound = 1e-6 * std::sqrt(size) * std::sqrt(std::sqrt(static_cast<double>(s.inner))) +
                             1e-6 * std::fabs(expected) +
                             (s.out == Type::bf16 ? std::fabs(expected) * 0x1p-8 : 0) + 1e-6;
        ASSERT_NEAR(found.row(r)[c], expected, bound) << r << ", " << c;
      }
  }

  static constexpr float kAlpha = 0.5f;
};

TEST_P(CudaGemm, AllFormsOfStorage) {
  const auto [in, out, rows, cols, inner, beta] = GetParam();
  cuda::Gemm gemm;
  const auto x = random_of(in, rows, inner, 1), w = random_of(in, cols, inner, 2);
  const auto xt = random_of(in, inner, rows, 3), wt = random_of(in, inner, cols, 4);
  const auto before = random_of(out, rows, cols, 5);
  const auto fresh = [&] { return beta == 0 ? TypedMatrix(out, rows, cols) : TypedMatrix(out, before); };

  const TypedMatrix nt = fresh(), nn = fresh(), tn = fresh();
  const TypedMatrix dx(in, x), dw(in, w), dxt(in, xt), dwt(in, wt);
  gemm.nt(dx.view(), dw.view(), nt.view(), kAlpha, beta, nullptr);
  expect(
      nt.values(), before, [&](int64_t r, int64_t k) { return x.row(r)[k]; },
      [&](int64_t c, int64_t k) { return w.row(c)[k]; });
  gemm.nn(dx.view(), dwt.view(), nn.view(), kAlpha, beta, nullptr);
  expect(
      nn.values(), before, [&](int64_t r, int64_t k) { return x.row(r)[k]; },
      [&](int64_t c, int64_t k) { return wt.row(k)[c]; });
  gemm.tn(dxt.view(), dwt.view(), tn.view(), kAlpha, beta, nullptr);
  expect(
      tn.values(), before, [&](int64_t r, int64_t k) { return xt.row(k)[r]; },
      [&](int64_t c, int64_t k) { return wt.row(k)[c]; });
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, CudaGemm,
    ::testing::Values(
        Shape{Type::f32, Type::f32, 1, 1, 1, 0}, Shape{Type::bf16, Type::bf16, 1, 1, 1, 0},
        Shape{Type::f32, Type::f32, 37, 51, 129, 1}, Shape{Type::f32, Type::bf16, 37, 51, 129, 1},
        Shape{Type::bf16, Type::f32, 37, 51, 129, 1}, Shape{Type::bf16, Type::bf16, 65, 333, 77, 0},
        Shape{Type::bf16, Type::f32, 5, 1000, 4099, 0}, Shape{Type::f32, Type::f32, 300, 256, 512, 0},
        Shape{Type::bf16, Type::f32, 4096, 4096, 2048, 1},  // large enough to be timed first
        Shape{Type::f32, Type::bf16, 8, 16, 0, 0}));

// The choice of algorithm is timed once for large shapes; results must not depend on it.
TEST(CudaGemmChoice, TheSameBitsFromEveryObject) {
  if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  const auto x = random_of(Type::bf16, 2048, 4096, 6), w = random_of(Type::bf16, 4096, 4096, 7);
  const TypedMatrix dx(Type::bf16, x), dw(Type::bf16, w);
  MatrixBuffer<float> first;
  for (int i = 0; i < 4; ++i) {
    cuda::Gemm gemm;
    const TypedMatrix y(Type::f32, 2048, 4096);
    gemm.nt(dx.view(), dw.view(), y.view(), 1, 0, nullptr);
    MatrixBuffer<float> found = y.values();
    if (i == 0)
      first = std::move(found);
    else
      ASSERT_TRUE(std::equal(first.data(), first.data() + first.size(), found.data()));
  }
}

}  // namespace
}  // namespace grinqh
