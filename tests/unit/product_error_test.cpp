// The yardstick of kernels against plain loops.
#include "quant/product_error.h"

#include <gtest/gtest.h>

#include <limits>

#include "numbers.h"
#include "quant/bench_layers.h"

namespace grinqh {
namespace {

std::unique_ptr<QuantizedLinear> nested_layer(int64_t out, int64_t in) {
  for (const BenchLayers& layers : bench_layers())
    if (layers.name() == "nested/graded") return layers.make(out, in, 4, 1);
  return nullptr;
}

TEST(ProductError, ExactProductsAreThoseOfTheDequantizedWeights) {
  const auto layer = nested_layer(150, 203);  // ragged in every direction
  const MatrixBuffer<float> x = testing::random_matrix(3, 203, 2);
  const MatrixBuffer<float> w = layer->dequantize(4);
  const MatrixBuffer<double> expected = testing::product_nt(x, w);
  EXPECT_LT(testing::relative_error(exact_product(*layer, {4, {}}, x), expected), 1e-14);
}

TEST(ProductError, EveryTokenReadsAtItsOwnLevels) {
  const auto layer = nested_layer(70, 40);
  const MatrixBuffer<float> x = testing::random_matrix(2, 40, 3);
  MatrixBuffer<Level> levels(2, 40);
  for (int64_t i = 0; i < levels.size(); ++i)
    levels.data()[i] = layer->levels()[static_cast<size_t>(i * 7 % 4)];
  const MatrixBuffer<double> y = exact_product(*layer, {kFullLevel, levels.view()}, x);
  MatrixBuffer<float> w(70, 40);
  for (int64_t t = 0; t < 2; ++t) {
    layer->dequantize_rows(levels.view().row_span(t), 0, 70, w);
    const MatrixBuffer<double> expected = testing::product_nt(x.view().rows_between(t, t + 1), w);
    for (int64_t n = 0; n < 70; ++n) EXPECT_NEAR(y.view()(t, n), expected.view()(0, n), 1e-12);
  }
}

TEST(ProductError, IsOfTheWorstTokenAndInfiniteForWhatIsNoNumber) {
  MatrixBuffer<double> exact(2, 2);
  MatrixBuffer<float> y(2, 2);
  for (int i = 0; i < 4; ++i) exact.data()[i] = y.data()[i] = static_cast<float>(i + 1);
  EXPECT_EQ(product_error(y, exact.view()), 0);
  y.row(1)[0] = 3.5f;  // off by 0.5 of the length of (3, 4)
  EXPECT_DOUBLE_EQ(product_error(y, exact.view()), 0.1);
  y.row(0)[1] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(product_error(y, exact.view()), std::numeric_limits<double>::infinity());
}

}  // namespace
}  // namespace grinqh
