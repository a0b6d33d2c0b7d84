#include "core/half.h"
#include "gemv_checks.h"
#include "kernels/dense/layout.h"

namespace grinqh {
namespace {

std::unique_ptr<DenseLinear> layer_of(int64_t out, int64_t in, DType dtype) {
  Rng rng(static_cast<uint64_t>(out * 131 + in));
  std::vector<uint16_t> weights;
  for (int64_t i = 0; i < out * in; ++i) {
    const auto value = static_cast<float>(rng.uniform() - 0.5);
    weights.push_back(dtype == DType::f16 ? to_half(value)
                                          : static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16));
  }
  return std::make_unique<DenseLinear>(DenseShape{out, in, dtype}, std::move(weights));
}

MatrixBuffer<Level> drawn_levels(int64_t tokens, int64_t in) {
  MatrixBuffer<Level> levels(tokens, in);
  Rng rng(11);
  for (int64_t i = 0; i < levels.size(); ++i) levels.data()[i] = rng.below(3) == 0 ? 16 : 0;
  return levels;
}

class DenseGemv : public ::testing::TestWithParam<DType> {};

TEST_P(DenseGemv, EveryShapeAgainstTheDequantizedWeights) {
  int64_t tokens = 1;
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{512, 256},
                                {520, 70},
                                {33, 531},
                                {1100, 65},
                                {1, 1},
                                {16, 3},
                                {600, 300},
                                {67, 1029}}) {
    SCOPED_TRACE(fmt::format("{} x {}, {} tokens", out, in, tokens));
    const auto layer = layer_of(out, in, GetParam());
    const MatrixBuffer<float> x = testing::random_matrix(tokens, in, 5);
    testing::expect_products(*layer, x, {});
    testing::expect_products(*layer, x, {kFullLevel, drawn_levels(tokens, in).view()});
    tokens = tokens % 8 + 1;
  }
}

TEST_P(DenseGemv, ChannelsThatAreLeftOutAreNotSeen) {
  testing::expect_left_out_channels_unseen(
      *gemv_kernels("dense16").at(0).make(*layer_of(70, 300, GetParam())), 16);
}

TEST_P(DenseGemv, BytesReadAreTheChannels) {
  const auto gemv = gemv_kernels("dense16").at(0).make(*layer_of(512, 300, GetParam()));
  LevelCounts counts;
  counts.channels[0] = 200, counts.channels[16] = 100;
  EXPECT_EQ(gemv->bytes_read(counts), 100 * 512 * 2);
  EXPECT_EQ(gemv->bytes(), 300 * 512 * 2);
}

INSTANTIATE_TEST_SUITE_P(Types, DenseGemv, ::testing::Values(DType::bf16, DType::f16));

}  // namespace
}  // namespace grinqh
