// Scaled rounding on the device: exactly what the CPU rounds to.
#include "cuda/group_rounding.h"

#include <gtest/gtest.h>

#include <cmath>

#include "cuda/gpu.h"
#include "cuda/typed_matrix.h"
#include "quant/affine_grid.h"
#include "quant/scaled_rounding.h"

namespace grinqh {
namespace {

using cuda::Type;

struct Case {
  Type type;
  int64_t out, in, group;
  int bits;
};

struct ScaledRoundingOnGpu : ::testing::TestWithParam<Case> {};

TEST_P(ScaledRoundingOnGpu, IsTheCpus) {
  if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  const Case c = GetParam();
  const MatrixBuffer<float> w = testing::random_of(c.type, c.out, c.in, 51, 0.05);
  std::vector<float> scales = testing::random_vector(c.in, 52);
  for (float& scale : scales) scale = std::exp(scale);
  const MatrixBuffer<float> expected = round_scaled(w, "layer", {scales, c.bits, c.group});
  const testing::TypedMatrix from(c.type, w), to(c.type, c.out, c.in);
  const cuda::Array<float> factors = testing::device_array(scales);
  const cuda::Array<uint32_t> too_large = testing::device_array(std::vector<uint32_t>{0});
  cuda::round_scaled(from.view(), factors.data(),
                     {AffineGridRule{c.bits, false}.plain(), c.group, too_large.data()}, to.view(), nullptr);
  const MatrixBuffer<float> found = to.values();
  for (int64_t r = 0; r < c.out; ++r)
    for (int64_t i = 0; i < c.in; ++i) {
      const float value = expected.row(r)[i];
      ASSERT_EQ(found.row(r)[i], c.type == Type::bf16 ? rounded_to(DType::bf16, value) : value)
          << r << " " << i;
    }
  EXPECT_EQ(testing::host_vector(too_large)[0], 0u);
}

INSTANTIATE_TEST_SUITE_P(Shapes, ScaledRoundingOnGpu,
                         ::testing::Values(Case{Type::f32, 100, 512, 128, 4},
                                           Case{Type::bf16, 100, 512, 128, 4},
                                           Case{Type::f32, 33, 333, 64, 3}, Case{Type::bf16, 33, 333, 333, 2},
                                           Case{Type::bf16, 7, 51, 16, 8}, Case{Type::f32, 1, 1, 1, 4}));

TEST(ScaledRoundingFlaws, AScaleThatDoesNotFitIsNoted) {
  if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  MatrixBuffer<float> w = testing::random_matrix(5, 64, 1);
  w.row(3)[40] = 3e6f;
  const testing::TypedMatrix from(Type::f32, w), to(Type::f32, 5, 64);
  const cuda::Array<float> factors = testing::device_array(std::vector<float>(64, 1.0f));
  const cuda::Array<uint32_t> too_large = testing::device_array(std::vector<uint32_t>{0});
  cuda::round_scaled(from.view(), factors.data(), {AffineGridRule{4, false}.plain(), 32, too_large.data()},
                     to.view(), nullptr);
  EXPECT_GE(std::bit_cast<float>(testing::host_vector(too_large)[0]), 3e6f / 15);
}

}  // namespace
}  // namespace grinqh
