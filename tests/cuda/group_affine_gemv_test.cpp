// Decoding products of layout "group_affine" against float64 on the dequantized weights, and against
// themselves.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/half.h"
#include "cuda/gemv.h"
#include "cuda/memory.h"
#include "gemv_reference.h"
#include "gpu.h"
#include "kernels/group_affine/layout.h"
#include "numbers.h"
#include "quant/kernel_table.h"

namespace grinqh {
namespace {

struct Case {
  int64_t out, in, group;
  int zeros;  // 0 integers, 1 none, 2 real
  bool columns;
  int64_t tokens;
};

std::unique_ptr<GroupAffineLinear> layer_of(const Case& c, int bits) {
  GroupAffineShape shape{c.out, c.in, bits, c.group};
  shape.symmetric = c.zeros == 1;
  shape.real_zeros = c.zeros == 2;
  shape.column_scales = c.columns;
  Rng rng(static_cast<uint64_t>(c.out * 131 + c.in + bits));
  const auto below = [&](uint64_t n) { return static_cast<uint8_t>(rng.below(n)); };
  MatrixBuffer<uint8_t> codes(c.out, c.in), zeros(c.out, shape.groups());
  MatrixBuffer<uint16_t> scales(c.out, shape.groups()), real_zeros(c.out, shape.groups());
  for (int64_t i = 0; i < codes.size(); ++i) codes.data()[i] = below(1u << bits);
  for (int64_t i = 0; i < scales.size(); ++i) {
    zeros.data()[i] = below(1u << bits);
    scales.data()[i] = to_half(static_cast<float>(0.01 + 0.1 * rng.uniform()));
    real_zeros.data()[i] = to_half(static_cast<float>(rng.uniform() * (1 << bits)));
  }
  std::vector<uint16_t> columns;
  if (c.columns)
    for (int64_t i = 0; i < c.in; ++i) columns.push_back(to_half(static_cast<float>(0.5 + rng.uniform())));
  if (shape.real_zeros)
    return std::make_unique<GroupAffineLinear>(shape, codes, scales, real_zeros.view(), columns);
  return std::make_unique<GroupAffineLinear>(shape, codes, scales, zeros.view(), columns);
}

std::vector<const QuantizedLinear*> one(const QuantizedLinear& layer) { return {&layer}; }

class CudaGroupAffineGemv : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  }
};

TEST_P(CudaGroupAffineGemv, EveryShapeAndOptionAgainstTheDequantizedWeights) {
  const std::vector<cuda::GemvKernel> kernels = cuda::gemv_kernels("group_affine");
  ASSERT_FALSE(kernels.empty());
  for (const Case& c :
       {Case{256, 1024, 128, 0, false, 1}, Case{72, 1300, 128, 0, false, 1}, Case{33, 520, 64, 2, true, 2},
        Case{50, 700, 32, 1, false, 3}, Case{20, 40, 0, 0, true, 8}, Case{41, 2056, 0, 2, false, 1},
        Case{40, 512, 0, 1, false, 5}, Case{2500, 96, 32, 0, true, 4}, Case{24, 4096, 64, 0, false, 8},
        Case{19, 130, 128, 2, false, 7}, Case{3000, 256, 64, 0, false, 1}, Case{30, 8712, 128, 0, false, 1},
        Case{18, 14336, 64, 2, false, 6}, Case{37, 1302, 64, 0, true, 2}, Case{30, 17920, 32, 0, false, 1},
        Case{16, 50176, 128, 0, false, 1}}) {
    SCOPED_TRACE(
        fmt::format("{} x {}, group {}, zeros {}, {} tokens", c.out, c.in, c.group, c.zeros, c.tokens));
    const auto layer = layer_of(c, GetParam());
    const int64_t stride = (c.in + 3) / 4 * 4;
    const std::vector<float> x = testing::random_vector(c.tokens * stride, 5);
    for (const cuda::GemvKernel& kernel : kernels) {
      const auto gemv = kernel.make(one(*layer), nullptr);
      if (gemv == nullptr) continue;  // not for this GPU, or not for this width
      const std::vector<float> y = testing::run_gemv(*gemv, x, c.tokens);
      for (int64_t token = 0; token < c.tokens; ++token)
        EXPECT_LE(testing::gemv_error(*layer, kFullLevel, x, stride, y, c.out, 0, token),
                  0.5 * gemv->tolerance())
            << "token " << token;
      for (int again = 0; again < 3; ++again) {
        const auto other = gemv->clone(nullptr);
        const std::vector<float> same = testing::run_gemv(*other, x, c.tokens);
        EXPECT_EQ(std::memcmp(y.data(), same.data(), y.size() * sizeof(float)), 0);
      }
      EXPECT_GE(gemv->bytes() * 8, layer->stored_bits().total());
    }
  }
}

// Behind a row's last input lie NaNs.
TEST_P(CudaGroupAffineGemv, RowsOfEitherTypeThatEndAnywhere) {
  constexpr int64_t kOut = 40, kTokens = 2;
  for (const cuda::Type type : {cuda::Type::f32, cuda::Type::bf16})
    for (const int64_t in : {1, 67, 523, 1030, 2556}) {
      SCOPED_TRACE(fmt::format("{} inputs of {} bytes", in, cuda::size_of(type)));
      const auto layer = layer_of({kOut, in, 64, 0, false, kTokens}, GetParam());
      const MatrixBuffer<float> x = testing::random_of(type, kTokens, in, 8);
      const testing::TypedMatrix device_x(type, x.view());
      for (const cuda::GemvKernel& kernel : cuda::gemv_kernels("group_affine")) {
        const auto gemv = kernel.make(one(*layer), nullptr);
        if (gemv == nullptr) continue;
        const testing::TypedMatrix y(cuda::Type::f32, kTokens, kOut);
        gemv->run({device_x.view()}, {}, {y.view()}, nullptr);
        const MatrixBuffer<float> values = y.values();
        const std::vector<float> of_x(x.data(), x.data() + x.size()),
            of_y(values.data(), values.data() + values.size());
        for (int64_t token = 0; token < kTokens; ++token)
          EXPECT_LE(testing::gemv_error(*layer, kFullLevel, of_x, in, of_y, kOut, 0, token),
                    0.5 * gemv->tolerance())
              << kernel.name << ", token " << token;
      }
    }
}

TEST_P(CudaGroupAffineGemv, BytesAreTheLayoutsWherePartsFill) {
  const auto layer = layer_of({64, 2048, 128, 1, false, 1}, GetParam());
  for (const cuda::GemvKernel& kernel : cuda::gemv_kernels("group_affine")) {
    const auto gemv = kernel.make(one(*layer), nullptr);
    if (gemv == nullptr) continue;
    EXPECT_EQ(gemv->bytes_read({}) * 8, layer->stored_bits().total());
    EXPECT_GE(gemv->bytes(), gemv->bytes_read({}));
  }
}

TEST_P(CudaGroupAffineGemv, RefusesGroupsItHasNoOrderFor) {
  const auto layer = layer_of({16, 96, 48, 0, false, 1}, GetParam());
  for (const cuda::GemvKernel& kernel : cuda::gemv_kernels("group_affine"))
    if (kernel.name == "streamed_chunks") {
      EXPECT_EQ(kernel.make(one(*layer), nullptr), nullptr);
    }
}

TEST_P(CudaGroupAffineGemv, SeveralLayersAtOnceFromANormalizedOrGatedInput) {
  constexpr int64_t kIn = 520, kTokens = 3, kRows[] = {40, 24, 9};
  std::vector<std::unique_ptr<GroupAffineLinear>> layers;
  std::vector<const QuantizedLinear*> listed;
  int64_t out = 0;
  for (const int64_t rows : kRows) {
    layers.push_back(layer_of({rows, kIn, 64, 0, false, 1}, GetParam()));
    listed.push_back(layers.back().get());
    out += rows;
  }
  const std::vector<float> x = testing::random_vector(kTokens * 2 * kIn, 6);
  const std::vector<Level> levels(listed.size(), kFullLevel);
  for (const cuda::GemvKernel& kernel : cuda::gemv_kernels("group_affine")) {
    const auto gemv = kernel.make(listed, nullptr);
    if (gemv == nullptr) continue;
    ASSERT_EQ(gemv->out(), out);
    testing::expect_formed_products(*gemv, listed, levels, x, kTokens, gemv->tolerance());
  }
}

// Results name the kernel that ran: one that nothing runs yet must not be found for it.
TEST(CudaGemvTable, ResultsNameTheKernelThatRan) {
  ASSERT_FALSE(cuda::gemv_kernels("group_affine").empty());
  EXPECT_EQ(find_kernel("group_affine", Device::cuda).name, "levels");
}

INSTANTIATE_TEST_SUITE_P(Bits, CudaGroupAffineGemv, ::testing::Values(2, 3, 4, 8));

}  // namespace
}  // namespace grinqh
