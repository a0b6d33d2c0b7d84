#include "core/gemm.h"

#include <gtest/gtest.h>

#include "numbers.h"

namespace grinqh {
namespace {

using testing::random_matrix;

struct Shape {
  int64_t tokens, in, out;
};

void PrintTo(const Shape& shape, std::ostream* out) {
  *out << shape.tokens << "x" << shape.in << "x" << shape.out;
}

// On both sides of the tile sizes (16 tokens x 128 outputs, 256 x 1024), and not multiples of anything.
class Gemm : public ::testing::TestWithParam<Shape> {
 protected:
  // Every matrix is a view into a wider one whose other elements are NaN: what reads or writes beside the
  // view shows.
  struct Strided {
    Strided(int64_t rows, int64_t cols, uint64_t seed) : storage(rows, cols + 5) {
      std::fill_n(storage.data(), storage.size(), NAN);
      const MatrixBuffer<float> values = random_matrix(rows, cols, seed);
      for (int64_t r = 0; r < rows; ++r) std::copy_n(values.row(r), cols, view().row(r));
    }
    Matrix<float> view() const { return storage.view().cols_between(2, storage.cols() - 3); }
    bool untouched_outside() const {
      for (int64_t r = 0; r < storage.rows(); ++r)
        for (int64_t c = 0; c < storage.cols(); ++c)
          if ((c < 2 || c >= storage.cols() - 3) && !std::isnan(storage.view()(r, c))) return false;
      return true;
    }
    MatrixBuffer<float> storage;
  };

  MatrixBuffer<double> sum(const MatrixBuffer<double>& product, const MatrixBuffer<float>& before) {
    MatrixBuffer<double> result(product.rows(), product.cols());
    for (int64_t i = 0; i < product.size(); ++i)
      result.data()[i] = product.data()[i] + static_cast<double>(before.data()[i]);
    return result;
  }

  template <class Multiply>
  void expect_product(const Strided& x, const Strided& w, const MatrixBuffer<double>& product,
                      const Multiply& multiply) {
    const Shape shape = GetParam();
    for (const Output output : {Output::overwrite, Output::add}) {
      Strided y(shape.tokens, shape.out, 3);
      const MatrixBuffer<float> before = output == Output::add
                                             ? random_matrix(shape.tokens, shape.out, 3)
                                             : MatrixBuffer<float>::zeroed(shape.tokens, shape.out);
      const MatrixBuffer<double> expected = sum(product, before);
      multiply(x.view(), w.view(), y.view(), output);
      EXPECT_LT(testing::worst_row_error(y.view(), expected.view()), 1e-6);
      EXPECT_TRUE(y.untouched_outside());
    }
  }
};

TEST_P(Gemm, ByTheTransposeIsTheDoubleLoop) {
  const Shape shape = GetParam();
  const Strided x(shape.tokens, shape.in, 1), w(shape.out, shape.in, 2);
  const MatrixBuffer<double> product = testing::product_nt(x.view(), w.view());
  expect_product(x, w, product, [](auto... args) { matmul_nt(args...); });
  expect_product(x, w, product, [](auto... args) { matmul_nt_serial(args...); });
}

TEST_P(Gemm, ByTheMatrixIsTheDoubleLoop) {
  const Shape shape = GetParam();
  const Strided x(shape.tokens, shape.in, 1), w(shape.in, shape.out, 2);
  MatrixBuffer<float> transposed(shape.out, shape.in);
  for (int64_t n = 0; n < shape.out; ++n)
    for (int64_t k = 0; k < shape.in; ++k) transposed.view()(n, k) = w.view()(k, n);
  const MatrixBuffer<double> product = testing::product_nt(x.view(), transposed);
  expect_product(x, w, product, [](auto... args) { matmul_nn(args...); });
  expect_product(x, w, product, [](auto... args) { matmul_nn_serial(args...); });
}

TEST_P(Gemm, DoesNotDependOnThreads) {
  const Shape shape = GetParam();
  const MatrixBuffer<float> x = random_matrix(shape.tokens, shape.in, 1);
  const MatrixBuffer<float> w = random_matrix(shape.out, shape.in, 2);
  std::vector<std::vector<float>> results;
  for (const int count : {1, 2, 3}) {
    const testing::Threads threads(count);
    MatrixBuffer<float> y(shape.tokens, shape.out);
    matmul_nt(x, w, y);
    results.emplace_back(y.data(), y.data() + y.size());
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

TEST_P(Gemm, ARowDoesNotDependOnTheOthers) {
  const Shape shape = GetParam();
  const MatrixBuffer<float> x = random_matrix(shape.tokens, shape.in, 1);
  const MatrixBuffer<float> w = random_matrix(shape.out, shape.in, 2);
  MatrixBuffer<float> transposed(shape.in, shape.out), y(shape.tokens, shape.out), one(1, shape.out);
  for (int64_t n = 0; n < shape.out; ++n)
    for (int64_t k = 0; k < shape.in; ++k) transposed.view()(k, n) = w.view()(n, k);
  matmul_nt(x, w, y);
  for (int64_t t = 0; t < shape.tokens; ++t) {
    matmul_nt(x.view().rows_between(t, t + 1), w, one);
    ASSERT_TRUE(std::equal(one.data(), one.data() + shape.out, y.row(t))) << t;
    matmul_nn(x.view().rows_between(t, t + 1), transposed, one);
    ASSERT_TRUE(std::equal(one.data(), one.data() + shape.out, y.row(t))) << t;
  }
}

TEST_P(Gemm, ByTheTransposeOfXIsTheDoubleLoop) {
  const Shape shape = GetParam();
  const Strided x(shape.in, shape.tokens, 1), w(shape.in, shape.out, 2);
  MatrixBuffer<float> xt(shape.tokens, shape.in), wt(shape.out, shape.in);
  for (int64_t k = 0; k < shape.in; ++k) {
    for (int64_t t = 0; t < shape.tokens; ++t) xt.view()(t, k) = -0.5f * x.view()(k, t);
    for (int64_t n = 0; n < shape.out; ++n) wt.view()(n, k) = w.view()(k, n);
  }
  expect_product(x, w, testing::product_nt(xt, wt),
                 [](auto a, auto b, auto y, Output output) { matmul_tn_serial(a, b, y, -0.5f, output); });
}

TEST_P(Gemm, GramAddsUpTheUpperTriangle) {
  const Shape shape = GetParam();
  const Strided x(shape.tokens, shape.in, 1);
  auto sum = MatrixBuffer<double>::zeroed(shape.in, shape.in);
  for (int i = 0; i < 2; ++i) add_gram(x.view(), sum);
  MatrixBuffer<float> transposed(shape.in, shape.tokens);
  for (int64_t k = 0; k < shape.in; ++k)
    for (int64_t t = 0; t < shape.tokens; ++t) transposed.view()(k, t) = x.view()(t, k);
  const MatrixBuffer<double> expected = testing::product_nt(transposed, transposed);
  for (int64_t i = 0; i < shape.in; ++i)
    for (int64_t j = i; j < shape.in; ++j)
      ASSERT_NEAR(sum.view()(i, j), 2 * expected.view()(i, j),
                  1e-5 * (1 + static_cast<double>(shape.tokens)));
}

INSTANTIATE_TEST_SUITE_P(Shapes, Gemm,
                         ::testing::Values(Shape{1, 1, 1}, Shape{1, 77, 129}, Shape{3, 5, 2},
                                           Shape{16, 33, 128}, Shape{17, 40, 131}, Shape{256, 19, 70},
                                           Shape{7, 700, 65}, Shape{259, 31, 1030}));

}  // namespace
}  // namespace grinqh
