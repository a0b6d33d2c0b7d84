#include "core/ordered_product.h"

#include <gtest/gtest.h>

#include "numbers.h"

namespace grinqh {
namespace {

// The order of the header, one element at a time.
float by_definition(Matrix<const float> x, int64_t t, Matrix<const float> w, int64_t n, float before) {
  float y = before;
  for (int64_t begin = 0; begin < x.cols; begin += 256) {
    float sum = 0;
    for (int64_t k = begin; k < std::min(begin + 256, x.cols); ++k) sum = std::fma(x(t, k), w(k, n), sum);
    y += sum;
  }
  return y;
}

struct Shape {
  int64_t tokens, in, out;
};

void PrintTo(const Shape& shape, std::ostream* out) {
  *out << shape.tokens << "x" << shape.in << "x" << shape.out;
}

class OrderedProduct : public ::testing::TestWithParam<Shape> {
 protected:
  OrderedProduct()
      : x_(testing::random_matrix(GetParam().tokens, GetParam().in, 1)),
        w_(testing::random_matrix(GetParam().in, GetParam().out, 2)) {}

  MatrixBuffer<float> start() const { return testing::random_matrix(x_.rows(), w_.cols(), 3); }

  static void add(Matrix<const float> x, const OrderedFactor& w, Matrix<float> y) {
    std::vector<float*> rows;
    for (int64_t t = 0; t < y.rows; ++t) rows.push_back(y.row(t));
    add_ordered_product(x, w, rows);
  }

  MatrixBuffer<float> x_, w_;
};

TEST_P(OrderedProduct, IsTheOrderThatItPromises) {
  const MatrixBuffer<float> before = start(), y = start();
  add(x_, {w_}, y);
  for (int64_t t = 0; t < y.rows(); ++t)
    for (int64_t n = 0; n < y.cols(); ++n)
      ASSERT_EQ(y.view()(t, n), by_definition(x_, t, w_, n, before.view()(t, n))) << t << " " << n;
}

TEST_P(OrderedProduct, OfTheTransposeIsTheSame) {
  MatrixBuffer<float> transposed(w_.cols(), w_.rows());
  for (int64_t k = 0; k < w_.rows(); ++k)
    for (int64_t n = 0; n < w_.cols(); ++n) transposed.view()(n, k) = w_.view()(k, n);
  const MatrixBuffer<float> y = start(), z = start();
  add(x_, {w_}, y);
  add(x_, {transposed, true}, z);
  EXPECT_TRUE(std::equal(y.data(), y.data() + y.size(), z.data()));
}

TEST_P(OrderedProduct, OfSparseRowsIsTheSame) {
  for (const double share : {0.0, 0.01, 0.3, 1.0}) {
    Rng rng(5);
    MatrixBuffer<float> x = testing::random_matrix(x_.rows(), x_.cols(), 1);
    std::vector<std::vector<int32_t>> channels(static_cast<size_t>(x.rows()));
    std::vector<std::vector<float>> values(channels.size());
    std::vector<SparseRow> rows;
    for (size_t t = 0; t < channels.size(); ++t) {
      for (int64_t k = 0; k < x.cols(); ++k) {
        float& value = x.row(static_cast<int64_t>(t))[k];
        if (rng.uniform() >= share) {
          value = 0;
        } else {
          channels[t].push_back(static_cast<int32_t>(k));
          values[t].push_back(value);
        }
      }
      rows.push_back({channels[t], values[t].data()});
    }
    const MatrixBuffer<float> y = start(), z = start();
    add(x, {w_}, y);
    std::vector<float*> z_rows;
    for (int64_t t = 0; t < z.rows(); ++t) z_rows.push_back(z.view().row(t));
    add_ordered_product(rows, w_.view(), z_rows);
    EXPECT_TRUE(std::equal(y.data(), y.data() + y.size(), z.data())) << share;
  }
}

TEST_P(OrderedProduct, LeavingOutChannelsThatNoRowReadsChangesNoBit) {
  std::vector<int32_t> channels;
  Rng rng(4);
  for (int64_t k = 0; k < w_.rows(); ++k) {
    if (rng.uniform() < 0.3 && !(k / 256 == 1))  // the second block is left out as a whole
      channels.push_back(static_cast<int32_t>(k));
    else
      for (int64_t t = 0; t < x_.rows(); ++t) x_.view()(t, k) = 0.0f;
  }
  if (channels.empty()) return;
  MatrixBuffer<float> compact(x_.rows(), static_cast<int64_t>(channels.size()));
  for (int64_t t = 0; t < x_.rows(); ++t)
    for (size_t j = 0; j < channels.size(); ++j)
      compact.view()(t, static_cast<int64_t>(j)) = x_.view()(t, channels[j]);
  const MatrixBuffer<float> y = start(), z = start();
  add(x_, {w_}, y);
  add(compact, {w_, false, channels}, z);
  EXPECT_TRUE(std::equal(y.data(), y.data() + y.size(), z.data()));
}

TEST_P(OrderedProduct, RowsAreWhereTheirPointersSay) {
  const MatrixBuffer<float> y = start(), z = start();
  add(x_, {w_}, y);
  std::vector<float*> backwards;
  for (int64_t t = z.rows() - 1; t >= 0; --t) backwards.push_back(z.row(t));
  const MatrixBuffer<float> before = start();
  add_ordered_product(x_, {w_}, backwards);
  for (int64_t t = 0; t < z.rows(); ++t)
    for (int64_t n = 0; n < z.cols(); ++n)
      ASSERT_EQ(z.view()(t, n), by_definition(x_, z.rows() - 1 - t, w_, n, before.view()(t, n)));
}

INSTANTIATE_TEST_SUITE_P(Shapes, OrderedProduct,
                         ::testing::Values(Shape{1, 1, 1}, Shape{1, 300, 200}, Shape{2, 256, 64},
                                           Shape{5, 31, 3}, Shape{6, 257, 64}, Shape{7, 600, 130},
                                           Shape{13, 1030, 33}));

}  // namespace
}  // namespace grinqh
