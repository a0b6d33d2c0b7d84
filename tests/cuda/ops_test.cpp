// The elementwise parts of a decoder block against float64 on the host.
#include <gtest/gtest.h>

#include <cmath>

#include "cuda/gpu.h"
#include "cuda/ops.h"
#include "cuda/typed_matrix.h"

namespace grinqh {
namespace {

using cuda::Type;
using testing::random_of;
using testing::TypedMatrix;

struct Shape {
  Type in, out;
  int64_t rows, cols;
};

class CudaOps : public ::testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  }
  // Rounding of the stored result, and a few ulp of float32 arithmetic.
  static double allowed(double value, Type type) {
    return std::fabs(value) * (type == Type::f32 ? 2e-6 : 0x1p-8) + 1e-6;
  }
  template <class Expected>
  void expect(const TypedMatrix& found, Type type, const Expected& expected) {
    const MatrixBuffer<float> values = found.values();
    for (int64_t r = 0; r < values.rows(); ++r)
      for (int64_t c = 0; c < values.cols(); ++c) {
        const double value = expected(r, c);
        ASSERT_NEAR(values.row(r)[c], value, allowed(value, type)) << "at " << r << ", " << c;
      }
  }
};

double at(const MatrixBuffer<float>& m, int64_t r, int64_t c) { return static_cast<double>(m.row(r)[c]); }

TEST_P(CudaOps, AddSubtractAndBias) {
  const auto [in, out, rows, cols] = GetParam();
  const auto a = random_of(out, rows, cols, 1), b = random_of(in, rows, cols, 2);
  const auto bias = random_of(Type::f32, 1, cols, 3);
  const auto device_bias = testing::device_array(std::vector<float>(bias.data(), bias.data() + cols));
  std::vector<uint8_t> flags(static_cast<size_t>(rows));
  for (size_t t = 0; t < flags.size(); ++t) flags[t] = t % 3 == 1;
  const auto device_flags = testing::device_array(flags);
  const TypedMatrix other(in, b);

  TypedMatrix sum(out, a);
  cuda::add_rows(sum.view(), other.view(), nullptr);
  expect(sum, out, [&](int64_t r, int64_t c) { return at(a, r, c) + at(b, r, c); });
  TypedMatrix difference(out, rows, cols);
  cuda::subtract(TypedMatrix(out, a).view(), other.view(), difference.view(), nullptr);
  expect(difference, out, [&](int64_t r, int64_t c) { return at(a, r, c) - at(b, r, c); });
  TypedMatrix biased(out, a);
  cuda::add_bias(biased.view(), device_bias.data(), nullptr);
  expect(biased, out, [&](int64_t r, int64_t c) { return at(a, r, c) + at(bias, 0, c); });
  TypedMatrix some(out, a);
  cuda::add_bias_where(some.view(), device_bias.data(), device_flags.data(), nullptr);
  expect(some, out, [&](int64_t r, int64_t c) { return at(a, r, c) + (r % 3 == 1 ? at(bias, 0, c) : 0); });
}

TEST_P(CudaOps, SiluMultiply) {
  const auto [in, out, rows, cols] = GetParam();
  const auto gate = random_of(in, rows, cols, 4, 8.0), up = random_of(in, rows, cols, 5);
  TypedMatrix result(out, rows, cols);
  cuda::silu_multiply(TypedMatrix(in, gate).view(), TypedMatrix(in, up).view(), result.view(), nullptr);
  expect(result, out, [&](int64_t r, int64_t c) {
    return at(gate, r, c) / (1 + std::exp(-at(gate, r, c))) * at(up, r, c);
  });
}

TEST_P(CudaOps, CopiesByRows) {
  const auto [in, out, rows, cols] = GetParam();
  const auto x = random_of(in, rows, cols, 6);
  const TypedMatrix from(in, x);
  std::vector<int32_t> order(static_cast<size_t>(rows));
  for (size_t t = 0; t < order.size(); ++t)
    order[t] = static_cast<int32_t>((t * 7 + 3) % order.size());  // a permutation where 7 does not divide
  const auto list = testing::device_array(order);
  const auto source = [&](int64_t r) { return int64_t{order[static_cast<size_t>(r)]}; };

  TypedMatrix all(out, rows, cols), picked(out, rows, cols), embedded(out, rows, cols);
  cuda::copy(from.view(), all.view(), nullptr);
  expect(all, out, [&](int64_t r, int64_t c) { return at(x, r, c); });
  cuda::copy_rows(from.view(), list.data(), picked.view(), nullptr);
  expect(picked, out, [&](int64_t r, int64_t c) { return at(x, source(r), c); });
  cuda::embed(list.data(), from.view(), embedded.view(), nullptr);
  expect(embedded, out, [&](int64_t r, int64_t c) { return at(x, source(r), c); });
  if (rows % 7 == 0) return;
  TypedMatrix scattered(out, rows, cols);
  cuda::scatter_rows(from.view(), list.data(), scattered.view(), nullptr);
  const MatrixBuffer<float> found = scattered.values();
  for (int64_t r = 0; r < rows; ++r)
    ASSERT_NEAR(found.row(source(r))[cols - 1], at(x, r, cols - 1), allowed(at(x, r, cols - 1), out));
}

TEST_P(CudaOps, RmsNorm) {
  const auto [in, out, rows, cols] = GetParam();
  const auto x = random_of(in, rows, cols, 7, 3.0), weight = random_of(Type::f32, 1, cols, 8);
  const auto device_weight = testing::device_array(std::vector<float>(weight.data(), weight.data() + cols));
  TypedMatrix result(out, rows, cols);
  cuda::rms_norm(TypedMatrix(in, x).view(), device_weight.data(), 1e-5f, result.view(), nullptr);
  std::vector<double> scale(static_cast<size_t>(rows));
  for (int64_t r = 0; r < rows; ++r) {
    double sum = 0;
    for (int64_t c = 0; c < cols; ++c) sum += at(x, r, c) * at(x, r, c);
    scale[static_cast<size_t>(r)] = 1 / std::sqrt(sum / static_cast<double>(cols) + 1e-5);
  }
  expect(result, out, [&](int64_t r, int64_t c) {
    return at(x, r, c) * scale[static_cast<size_t>(r)] * at(weight, 0, c);
  });
}

TEST_P(CudaOps, SquaredDistanceIsTheSameTwice) {
  const auto [in, out, rows, cols] = GetParam();
  const auto a = random_of(in, rows, cols, 9), b = random_of(out, rows, cols, 10);
  const TypedMatrix left(in, a), right(out, b);
  const cuda::Array<double> sums(2), scratch(4096);
  for (int i = 0; i < 2; ++i)
    cuda::squared_distance(left.view(), right.view(), sums.data() + i, scratch.data(), nullptr);
  double expected = 0;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) expected += std::pow(at(a, r, c) - at(b, r, c), 2);
  const std::vector<double> found = testing::host_vector(sums);
  EXPECT_NEAR(found[0], expected, 1e-6 * expected);
  EXPECT_EQ(found[0], found[1]);
}

TEST_P(CudaOps, FindsWhatIsNotFinite) {
  const auto [in, out, rows, cols] = GetParam();
  auto x = random_of(in, rows, cols, 11);
  const auto flags = testing::device_array(std::vector<int32_t>{0, 0, 0});
  cuda::find_not_finite(TypedMatrix(in, x).view(), flags.data(), nullptr);
  x.row(rows - 1)[cols - 1] = HUGE_VALF;
  cuda::find_not_finite(TypedMatrix(in, x).view(), flags.data() + 1, nullptr);
  x.row(rows - 1)[cols - 1] = 0;
  x.row(0)[cols / 2] = NAN;
  cuda::find_not_finite(TypedMatrix(in, x).view(), flags.data() + 2, nullptr);
  EXPECT_EQ(testing::host_vector(flags), (std::vector<int32_t>{0, 1, 1}));
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, CudaOps,
    ::testing::Values(Shape{Type::f32, Type::f32, 5, 64}, Shape{Type::bf16, Type::bf16, 3, 1},
                      Shape{Type::f32, Type::bf16, 17, 333}, Shape{Type::bf16, Type::f32, 300, 1000},
                      Shape{Type::f32, Type::f32, 2, 40001}, Shape{Type::bf16, Type::bf16, 40, 4096},
                      Shape{Type::bf16, Type::f32, 9, 14336}));

struct Heads {
  Type type;
  int64_t rows, heads, dim;
};

class CudaHeads : public ::testing::TestWithParam<Heads> {
 protected:
  void SetUp() override {
    if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  }
};

TEST_P(CudaHeads, NormOfEachHead) {
  const auto [type, rows, heads, dim] = GetParam();
  const auto x = random_of(type, rows, heads * dim, 12), weight = random_of(Type::f32, 1, dim, 13);
  const auto device_weight = testing::device_array(std::vector<float>(weight.data(), weight.data() + dim));
  TypedMatrix result(type, x);
  cuda::rms_norm_heads(result.view(), device_weight.data(), dim, 1e-6f, nullptr);
  const MatrixBuffer<float> found = result.values();
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t h = 0; h < heads; ++h) {
      double sum = 0;
      for (int64_t i = 0; i < dim; ++i) sum += std::pow(at(x, r, h * dim + i), 2);
      const double scale = 1 / std::sqrt(sum / static_cast<double>(dim) + 1e-6);
      for (int64_t i = 0; i < dim; ++i) {
        const double expected = at(x, r, h * dim + i) * scale * at(weight, 0, i);
        ASSERT_NEAR(found.row(r)[h * dim + i], expected,
                    std::fabs(expected) * (type == Type::f32 ? 2e-6 : 0x1p-8) + 1e-6);
      }
    }
}

TEST_P(CudaHeads, RopeTurnsByTheFloatAngleAndBack) {
  const auto [type, rows, heads, dim] = GetParam();
  if (dim % 2) return;
  const auto x = random_of(type, rows, heads * dim, 14);
  std::vector<int32_t> positions(static_cast<size_t>(rows));
  for (size_t t = 0; t < positions.size(); ++t) positions[t] = static_cast<int32_t>(t * t * 977 % 131072);
  std::vector<float> frequencies(static_cast<size_t>(dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i)
    frequencies[i] = std::pow(500000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(dim));
  const auto device_positions = testing::device_array(positions);
  const auto device_frequencies = testing::device_array(frequencies);
  TypedMatrix result(type, x);
  const auto turn = [&](float direction) {
    cuda::rope(result.view(), device_positions.data(), device_frequencies.data(), dim, direction, nullptr);
  };
  turn(1.0f);
  const MatrixBuffer<float> found = result.values();
  const double bound = type == Type::f32 ? 2e-6 : 0x1p-7;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < heads * dim; ++c) {
      const int64_t i = c % dim, half = dim / 2, base = c - i;
      const float angle =
          static_cast<float>(positions[static_cast<size_t>(r)]) * frequencies[static_cast<size_t>(i % half)];
      const double cosine = std::cos(static_cast<double>(angle)), sine = std::sin(static_cast<double>(angle));
      const double expected = i < half ? at(x, r, c) * cosine - at(x, r, c + half) * sine
                                       : at(x, r, c) * cosine + at(x, r, base + i - half) * sine;
      ASSERT_NEAR(found.row(r)[c], expected, (std::fabs(expected) + 1) * bound) << r << ", " << c;
    }
  turn(-1.0f);
  const MatrixBuffer<float> back = result.values();
  for (int64_t i = 0; i < x.size(); ++i) ASSERT_NEAR(back.data()[i], x.data()[i], 4 * bound);
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaHeads,
                         ::testing::Values(Heads{Type::f32, 7, 4, 128}, Heads{Type::bf16, 130, 8, 128},
                                           Heads{Type::f32, 5, 3, 48}, Heads{Type::bf16, 9, 5, 20},
                                           Heads{Type::f32, 33, 2, 256}, Heads{Type::bf16, 3, 1, 512},
                                           Heads{Type::f32, 11, 2, 6}, Heads{Type::bf16, 64, 32, 64}));

}  // namespace
}  // namespace grinqh
