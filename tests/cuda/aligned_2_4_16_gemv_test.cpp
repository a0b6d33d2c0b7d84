// Decoding products of layout "aligned_2_4_16" against float64 on the dequantized weights, and against
// themselves.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/half.h"
#include "cuda/gemv.h"
#include "cuda/memory.h"
#include "gemv_reference.h"
#include "gpu.h"
#include "kernels/aligned_2_4_16/layout.h"
#include "numbers.h"

namespace grinqh {
namespace {

struct Case {
  int64_t out, in, wide_every;  // every such group is wide; 0: none
  double outliers;              // share of narrow weights
  int64_t tokens;
};

// Outliers replace weights in one half of the rows and are added to weights in the other.
std::unique_ptr<Aligned2416Linear> layer_of(const Case& c) {
  Aligned2416Shape shape{c.out, c.in, {}};
  for (int64_t g = 0; g < shape.groups(); ++g)
    shape.wide.push_back(c.wide_every > 0 && (g * 7 + c.out) % c.wide_every == 0);
  Aligned2416Parts parts(shape);
  Rng rng(static_cast<uint64_t>(c.out * 131 + c.in));
  const auto below = [&](int n) { return static_cast<uint8_t>(rng.below(static_cast<uint64_t>(n))); };
  const auto half = [&] { return to_half(static_cast<float>(0.01 + 0.1 * rng.uniform())); };
  const std::vector<int64_t> places = shape.places();
  for (int64_t g = 0; g < shape.groups(); ++g) {
    const int top = shape.wide[static_cast<size_t>(g)] ? 16 : 4;
    const int scales = 1 << Aligned2416Shape::scale_bits(places[static_cast<size_t>(g)]);
    for (int64_t row = 0; row < c.out; ++row) {
      for (int64_t i = 16 * g; i < 16 * g + shape.width_of(g); ++i) parts.codes.row(row)[i] = below(top);
      parts.zeros.row(row)[g] = below(top);
      parts.wide_scales.row(row)[g] = half();
      parts.scale_codes.row(row)[g] = below(scales);
    }
    for (int64_t block = 0; block < shape.row_blocks(); ++block) {
      parts.second_scales.row(block)[g] = half();
      parts.second_zeros.row(block)[g] = below(scales);
    }
  }
  for (int64_t row = 0; row < c.out; ++row)
    for (int64_t i = 0; i < c.in; ++i) {
      if (shape.wide[static_cast<size_t>(i / 16)] || rng.uniform() >= c.outliers) continue;
      if (row % 2 == 0) parts.codes.row(row)[i] = parts.zeros.row(row)[i / 16];
      parts.outliers.push_back({row, i, to_half(static_cast<float>(2 * rng.normal()))});
    }
  return std::make_unique<Aligned2416Linear>(std::move(shape), parts);
}

// As activations are: a few channels far above the others.
std::vector<float> inputs(int64_t tokens, int64_t stride, uint64_t seed) {
  std::vector<float> x = testing::random_vector(tokens * stride, seed);
  for (int64_t i = 0; i < std::ssize(x); ++i)
    if (i % stride % 53 == 7) x[static_cast<size_t>(i)] *= 30;
  return x;
}

class CudaAligned2416Gemv : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
    for (const cuda::GemvKernel& kernel : cuda::gemv_kernels("aligned_2_4_16"))
      if (kernel.name == GetParam()) make_ = kernel.make;
    ASSERT_TRUE(make_);
  }
  std::unique_ptr<cuda::Gemv> make(std::vector<const QuantizedLinear*> layers) const {
    return make_(layers, nullptr);
  }

 private:
  cuda::MakeGemv make_;
};

TEST_P(CudaAligned2416Gemv, EveryShapeAgainstTheDequantizedWeights) {
  for (const Case& c : {Case{256, 2048, 8, 0.005, 1}, Case{72, 1300, 8, 0.02, 1}, Case{33, 520, 5, 0.3, 2},
                        Case{50, 700, 1, 0, 3}, Case{20, 40, 0, 0.1, 8}, Case{41, 2056, 3, 0.9, 1},
                        Case{1, 1, 0, 0, 5}, Case{5000, 96, 4, 0.005, 4}, Case{16, 16, 1, 0, 1},
                        Case{24, 4099, 8, 0.005, 8}, Case{19, 130, 0, 0, 7}, Case{2500, 300, 6, 0.005, 1},
                        Case{40, 9000, 8, 0.02, 1}, Case{130, 8200, 3, 0.005, 3}}) {
    SCOPED_TRACE(fmt::format("{} x {}, wide every {}, {} outliers, {} tokens", c.out, c.in, c.wide_every,
                             c.outliers, c.tokens));
    const auto layer = layer_of(c);
    const int64_t stride = (c.in + 3) / 4 * 4;
    const std::vector<float> x = inputs(c.tokens, stride, 5);
    const auto gemv = make({layer.get()});
    if (gemv == nullptr) GTEST_SKIP() << "no kernel for this GPU";
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
  }
}

// Beside the layout's bits: scale codes are stored in 4 bits each, two parts are rounded up to 16 bytes, and
// where 16 outputs begin is listed.
TEST_P(CudaAligned2416Gemv, BytesAreNearlyTheLayouts) {
  const auto layer = layer_of({256, 2048, 8, 0.005, 1});
  const auto gemv = make({layer.get()});
  if (gemv == nullptr) GTEST_SKIP() << "no kernel for this GPU";
  const double ratio =
      static_cast<double>(gemv->bytes() * 8) / static_cast<double>(layer->stored_bits().total());
  EXPECT_GE(ratio, 1.0);
  EXPECT_LE(ratio, 1.06);
}

// The layers have their wide groups in different places.
TEST_P(CudaAligned2416Gemv, SeveralLayersAtOnceFromANormalizedOrGatedInput) {
  constexpr int64_t kIn = 520, kTokens = 3;
  std::vector<std::unique_ptr<Aligned2416Linear>> layers;
  std::vector<const QuantizedLinear*> listed;
  int64_t out = 0;
  for (const int64_t rows : {int64_t{40}, int64_t{240}, int64_t{9}}) {
    layers.push_back(layer_of({rows, kIn, 3 + rows % 4, 0.01, 1}));
    listed.push_back(layers.back().get());
    out += rows;
  }
  const auto gemv = make(listed);
  if (gemv == nullptr) GTEST_SKIP() << "no kernel for this GPU";
  ASSERT_EQ(gemv->out(), out);
  const std::vector<Level> levels(listed.size(), kFullLevel);
  testing::expect_formed_products(*gemv, listed, levels, inputs(kTokens, 2 * kIn, 6), kTokens,
                                  gemv->tolerance());
}

TEST_P(CudaAligned2416Gemv, RefusesMoreLayersThanItHasRoomFor) {
  const auto layer = layer_of({16, 64, 4, 0.01, 1});
  EXPECT_EQ(make({layer.get(), layer.get(), layer.get(), layer.get(), layer.get()}), nullptr);
}

TEST(CudaAligned2416GemvTable, HasThePapersAblation) {
  std::vector<std::string> names;
  for (const cuda::GemvKernel& kernel : cuda::gemv_kernels("aligned_2_4_16")) names.push_back(kernel.name);
  EXPECT_EQ(names, (std::vector<std::string>{"asynchronous", "synchronous"}));
}

INSTANTIATE_TEST_SUITE_P(Dequantization, CudaAligned2416Gemv,
                         ::testing::Values("asynchronous", "synchronous"));

}  // namespace
}  // namespace grinqh
