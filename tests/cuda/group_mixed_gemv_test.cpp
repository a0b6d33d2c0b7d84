// Decoding products of layout "group_mixed" against float64 on the dequantized weights, and against
// themselves.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>

#include "core/half.h"
#include "cuda/gemv.h"
#include "gemv_reference.h"
#include "gpu.h"
#include "kernels/group_mixed/layout.h"
#include "numbers.h"

namespace grinqh {
namespace {

struct Case {
  int64_t out, in, group;
  std::vector<uint8_t> widths;  // of the groups, over and over
  int64_t tokens;
};

std::unique_ptr<GroupMixedLinear> layer_of(const Case& c) {
  GroupMixedShape shape{c.out, c.in, c.group, {}};
  for (int64_t g = 0; g < shape.groups(); ++g)
    shape.widths.push_back(c.widths[static_cast<size_t>(g) % c.widths.size()]);
  GroupMixedParts parts(shape);
  Rng rng(static_cast<uint64_t>(c.out * 131 + c.in));
  for (int64_t row = 0; row < c.out; ++row)
    for (int64_t g = 0; g < shape.groups(); ++g) {
      const uint64_t values = uint64_t{1} << shape.widths[static_cast<size_t>(g)];
      for (int64_t i = shape.begin_of(g); i < shape.end_of(g); ++i)
        parts.codes.row(row)[i] = static_cast<uint8_t>(rng.below(values));
      parts.zeros.row(row)[g] = static_cast<uint8_t>(rng.below(values));
      parts.scales.row(row)[g] =
          to_half(static_cast<float>((1 + rng.uniform()) / static_cast<double>(values)));
      parts.means.row(row)[g] = to_half(static_cast<float>(0.1 * rng.normal()));
    }
  return std::make_unique<GroupMixedLinear>(std::move(shape), parts);
}

class CudaGroupMixedGemv : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
    for (const cuda::GemvKernel& kernel : cuda::gemv_kernels("group_mixed")) make_ = kernel.make;
    ASSERT_TRUE(make_);
  }
  std::unique_ptr<cuda::Gemv> make(std::vector<const QuantizedLinear*> layers) const {
    return make_(layers, nullptr);
  }

 private:
  cuda::MakeGemv make_;
};

TEST_F(CudaGroupMixedGemv, EveryWidthAndShapeAgainstTheDequantizedWeights) {
  std::vector<Case> cases{{256, 2048, 128, {2, 1, 2, 3}, 1},
                          {72, 1300, 128, {3, 2, 3, 4}, 1},
                          {33, 520, 64, {1, 2, 3}, 2},
                          {50, 700, 32, {4, 7, 5}, 3},
                          {20, 40, 128, {1}, 8},
                          {41, 2056, 64, {6, 8, 1, 2, 5, 4, 7, 3}, 5},
                          {2500, 96, 32, {2}, 4},
                          {24, 4096, 128, {1, 8}, 8},
                          {3000, 512, 128, {5, 3, 6, 4}, 1},
                          {30, 14336, 128, {2, 1, 2, 3, 2}, 7},
                          {1, 1, 128, {3}, 6},
                          {18, 14336, 32, {8, 7}, 1}};
  for (uint8_t bits = 1; bits <= 8; ++bits) cases.push_back({40, 1024, 128, {bits}, bits % 2 ? 1 : 3});
  for (const Case& c : cases) {
    SCOPED_TRACE(fmt::format("{} x {}, group {}, widths {}, {} tokens", c.out, c.in, c.group,
                             fmt::join(c.widths, " "), c.tokens));
    const auto layer = layer_of(c);
    const int64_t stride = (c.in + 3) / 4 * 4;
    const std::vector<float> x = testing::random_vector(c.tokens * stride, 5);
    const auto gemv = make({layer.get()});
    if (gemv == nullptr) GTEST_SKIP() << "no kernel for this GPU";
    const std::vector<float> y = testing::run_gemv(*gemv, x, c.tokens);
    for (int64_t token = 0; token < c.tokens; ++token)
      EXPECT_LE(testing::gemv_error(*layer, kFullLevel, x, stride, y, c.out, 0, token),
                0.5 * gemv->tolerance())
          << "token " << token;
    for (int again = 0; again < 3; ++again) {
      const std::vector<float> same = testing::run_gemv(*gemv->clone(nullptr), x, c.tokens);
      EXPECT_EQ(std::memcmp(y.data(), same.data(), y.size() * sizeof(float)), 0);
    }
  }
}

// Where chunks of 512 inputs fill: codes, scales, zero points and means are the layout's. Else groups stand
// with wider ones, or with nothing.
TEST_F(CudaGroupMixedGemv, BytesAreNearlyTheLayouts) {
  const auto ratio = [&](const Case& c) {
    const auto layer = layer_of(c);
    const auto gemv = make({layer.get()});
    return gemv == nullptr
               ? 1.0
               : static_cast<double>(gemv->bytes() * 8) / static_cast<double>(layer->stored_bits().total());
  };
  EXPECT_LE(ratio({256, 2048, 128, {4, 4, 2, 2, 2, 2, 4, 4}, 1}), 1.02);
  EXPECT_LE(ratio({256, 2048, 128, {2, 1, 2, 3}, 1}), 1.02);
  EXPECT_LE(ratio({256, 4096, 128, {3, 2, 3, 4, 3, 2}, 1}), 1.07);
}

TEST_F(CudaGroupMixedGemv, SeveralLayersAtOnceFromANormalizedOrGatedInput) {
  constexpr int64_t kIn = 520, kTokens = 3;
  std::vector<std::unique_ptr<GroupMixedLinear>> layers;
  std::vector<const QuantizedLinear*> listed;
  for (const int64_t rows : {40, 24, 9}) {
    layers.push_back(layer_of({rows, kIn, 64, {2, 1, 4}, 1}));
    listed.push_back(layers.back().get());
  }
  const auto gemv = make(listed);
  if (gemv == nullptr) GTEST_SKIP() << "no kernel for this GPU";
  ASSERT_EQ(gemv->out(), 40 + 24 + 9);
  const std::vector<Level> levels(listed.size(), kFullLevel);
  testing::expect_formed_products(*gemv, listed, levels, testing::random_vector(kTokens * 2 * kIn, 6),
                                  kTokens, gemv->tolerance());
}

TEST_F(CudaGroupMixedGemv, RefusesGroupsItHasNoOrderForAndLayersOfOtherWidths) {
  EXPECT_EQ(make({layer_of({16, 96, 48, {2}, 1}).get()}), nullptr);
  const auto one = layer_of({16, 256, 64, {2, 3}, 1}), other = layer_of({16, 256, 64, {3, 2}, 1});
  EXPECT_EQ(make({one.get(), other.get()}), nullptr);
}

}  // namespace
}  // namespace grinqh
