#include "quant/level_gemm.h"

#include <gtest/gtest.h>

#include "core/dtype.h"
#include "core/error.h"
#include "kernels/nested/layout.h"
#include "numbers.h"

namespace grinqh {
namespace {

std::unique_ptr<NestedLinear> random_layer(int64_t out, int64_t in, std::vector<Level> levels) {
  NestedShape shape;
  shape.out = out;
  shape.in = in;
  shape.group = 48;
  shape.levels = std::move(levels);
  Rng rng(7);
  MatrixBuffer<uint8_t> codes(out, in);
  for (int64_t i = 0; i < codes.size(); ++i) codes.data()[i] = static_cast<uint8_t>(rng.below(256));
  std::vector<uint16_t> scales, minima;
  for (int64_t p = 0; p < shape.parameters(); ++p) {
    const double scale = 0.5 + rng.uniform();
    scales.push_back(to_half(static_cast<float>(scale)));
    minima.push_back(to_half(static_cast<float>(-scale * (100 + 56 * rng.uniform()))));
  }
  return std::make_unique<NestedLinear>(shape, codes, scales, minima, std::vector<uint16_t>());
}

// How the levels of a token's channels are drawn.
enum class Draw {
  any,     // evenly from all levels
  lowest,  // most channels at the lowest level, few above: tiles gather columns
  highest  // most at the highest: tiles multiply by everything
};

// Draws and uniform rows by turns, so that tiles hold all kinds.
MatrixBuffer<Level> random_levels(int64_t tokens, int64_t in, std::span<const Level> levels, Draw draw,
                                  bool with_uniform_rows) {
  MatrixBuffer<Level> result(tokens, in);
  Rng rng(11);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < in; ++i) {
      size_t at = rng.below(levels.size());
      if (draw != Draw::any && rng.uniform() < 0.98) at = draw == Draw::lowest ? 0 : levels.size() - 1;
      if (with_uniform_rows && t % 3 == 1) at = static_cast<size_t>(t / 3) % levels.size();
      result.view()(t, i) = levels[at];
    }
  return result;
}

MatrixBuffer<double> by_token(const QuantizedLinear& layer, Matrix<const float> x,
                              Matrix<const Level> levels) {
  MatrixBuffer<double> y(x.rows, layer.out());
  MatrixBuffer<float> w(layer.out(), layer.in());
  for (int64_t t = 0; t < x.rows; ++t) {
    layer.dequantize_rows(levels.row_span(t), 0, layer.out(), w);
    const MatrixBuffer<double> row = testing::product_nt(x.rows_between(t, t + 1), w);
    std::copy_n(row.data(), row.size(), y.row(t));
  }
  return y;
}

struct Case {
  int64_t tokens;
  std::vector<Level> levels;
};

void PrintTo(const Case& each, std::ostream* out) {
  *out << each.tokens << " tokens, " << each.levels.size() << " levels from " << int{each.levels.front()};
}

class LevelGemm : public ::testing::TestWithParam<Case> {
 protected:
  static constexpr int64_t kOut = 67, kIn = 131;  // multiples of nothing

  void expect_agrees(Matrix<const Level> levels) {
    const auto& [tokens, stored] = GetParam();
    const auto layer = random_layer(kOut, kIn, stored);
    // Views into wider matrices, as heads and batches are.
    const MatrixBuffer<float> x_storage = testing::random_matrix(tokens, kIn + 2, 3);
    const Matrix<const float> x = x_storage.view().cols_between(1, kIn + 1);
    const MatrixBuffer<double> expected = by_token(*layer, x, levels);
    for (const int count : {1, 3}) {
      const testing::Threads threads(count);
      MatrixBuffer<float> y_storage(tokens, kOut + 3);
      std::fill_n(y_storage.data(), y_storage.size(), NAN);
      const Matrix<float> y = y_storage.view().cols_between(2, kOut + 2);
      forward_by_levels(*layer, {x, y, {kFullLevel, levels}});
      EXPECT_LT(testing::worst_row_error(y, expected.view()), 2e-6);
      expect_bits_of_single_tokens(*layer, x, levels, y);
      for (int64_t t = 0; t < tokens; ++t)
        EXPECT_TRUE(std::isnan(y_storage.row(t)[1]) && std::isnan(y_storage.row(t)[kOut + 2]));
    }
  }

  void expect_bits_of_single_tokens(const QuantizedLinear& layer, Matrix<const float> x,
                                    Matrix<const Level> levels, Matrix<const float> y) {
    MatrixBuffer<float> alone(1, kOut);
    for (int64_t t = 0; t < x.rows; t += 1 + x.rows / 30) {
      forward_by_levels(layer,
                        {x.rows_between(t, t + 1), alone, {kFullLevel, levels.rows_between(t, t + 1)}});
      ASSERT_TRUE(std::equal(alone.data(), alone.data() + kOut, y.row(t))) << t;
    }
  }
};

TEST_P(LevelGemm, UniformLevels) {
  const auto& [tokens, stored] = GetParam();
  const auto layer = random_layer(kOut, kIn, stored);
  const MatrixBuffer<float> x = testing::random_matrix(tokens, kIn, 3);
  for (const Level level : stored) {
    MatrixBuffer<float> y(tokens, kOut);
    forward_by_levels(*layer, {x, y, {level, {}}});
    EXPECT_LT(testing::relative_error(y, testing::product_nt(x, layer->dequantize(level))), 1e-6)
        << int{level};
  }
  MatrixBuffer<float> y(tokens, kOut);
  forward_by_levels(*layer, {x, y, {}});
  EXPECT_LT(testing::relative_error(y, testing::product_nt(x, layer->dequantize(stored.back()))), 1e-6);
}

TEST_P(LevelGemm, LevelsPerTokenAndChannel) {
  const auto& [tokens, stored] = GetParam();
  for (const Draw draw : {Draw::any, Draw::lowest, Draw::highest}) {
    SCOPED_TRACE(static_cast<int>(draw));
    expect_agrees(random_levels(tokens, kIn, stored, draw, false));
  }
}

TEST_P(LevelGemm, RowsOfOneLevelAmongGradedOnes) {
  const auto& [tokens, stored] = GetParam();
  expect_agrees(random_levels(tokens, kIn, stored, Draw::any, true));
  expect_agrees(random_levels(tokens, kIn, stored, Draw::lowest, true));
}

TEST_P(LevelGemm, OnlyRowsOfOneLevel) {
  const auto& [tokens, stored] = GetParam();
  MatrixBuffer<Level> levels(tokens, kIn);
  for (int64_t t = 0; t < tokens; ++t)
    std::fill_n(levels.row(t), kIn, stored[static_cast<size_t>(t) % stored.size()]);
  expect_agrees(levels);
}

INSTANTIATE_TEST_SUITE_P(Shapes, LevelGemm,
                         ::testing::Values(Case{1, {0, 2, 4, 8}}, Case{2, {0, 2, 4, 8}},
                                           Case{3, {0, 2, 4, 8}}, Case{5, {0, 2, 4, 8}}, Case{5, {2, 3}},
                                           Case{70, {4}}, Case{300, {0, 2, 4, 8}}, Case{300, {2, 4, 8}},
                                           Case{300, {0, 1, 2, 3, 4, 5, 6, 8}}));

TEST(LevelGemmTiles, MoreOutputsThanATile) {
  const std::vector<Level> stored{0, 2, 4, 8};
  const auto layer = random_layer(1029, 40, stored);
  const MatrixBuffer<float> x = testing::random_matrix(9, 40, 3);
  for (const Draw draw : {Draw::lowest, Draw::highest}) {
    const MatrixBuffer<Level> levels = random_levels(9, 40, stored, draw, true);
    MatrixBuffer<float> y(9, 1029);
    forward_by_levels(*layer, {x, y, {kFullLevel, levels}});
    EXPECT_LT(testing::worst_row_error(y.view(), by_token(*layer, x, levels).view()), 2e-6);
  }
}

TEST(LevelGemmTiles, TheWholeBatchSkipped) {
  const auto layer = random_layer(10, 40, {0, 8});
  const MatrixBuffer<float> x = testing::random_matrix(9, 40, 3);
  const auto levels = MatrixBuffer<Level>::zeroed(9, 40);
  MatrixBuffer<float> y(9, 10);
  std::fill_n(y.data(), y.size(), NAN);
  forward_by_levels(*layer, {x, y, {kFullLevel, levels}});
  for (int64_t i = 0; i < y.size(); ++i) EXPECT_EQ(y.data()[i], 0.0f);
}

TEST(LevelGemmTiles, LevelsThatAreNotStoredAreRefused) {
  const auto layer = random_layer(10, 40, {2, 8});
  const MatrixBuffer<float> x = testing::random_matrix(9, 40, 3);
  MatrixBuffer<float> y(9, 10);
  EXPECT_THROW(forward_by_levels(*layer, {x, y, {4, {}}}), BadInput);
  EXPECT_THROW(forward_by_levels(*layer, {x, y.view().cols_between(0, 9), {8, {}}}), std::logic_error);
}

}  // namespace
}  // namespace grinqh
