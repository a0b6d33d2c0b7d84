#include "kernels/dense/layout.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/rng.h"
#include "model_files.h"

namespace grinqh {
namespace {

// The value of 16 bits by the definition of IEEE binary floats.
double by_definition(uint16_t bits, DType dtype) {
  const int mantissa_bits = dtype == DType::f16 ? 10 : 7;
  const int bias = dtype == DType::f16 ? 15 : 127;
  const int exponent = (bits & 0x7fff) >> mantissa_bits;
  const double mantissa = std::ldexp(bits & ((1 << mantissa_bits) - 1), -mantissa_bits);
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, 1 - bias) : std::ldexp(1 + mantissa, exponent - bias);
  return bits & 0x8000 ? -magnitude : magnitude;
}

class DenseLayout : public ::testing::TestWithParam<DType> {
 protected:
  static constexpr int64_t kOut = 37, kIn = 29;

  // Any finite bits.
  DenseLayout() {
    Rng rng(1);
    const uint64_t infinity = GetParam() == DType::f16 ? 0x7c00 : 0x7f80;
    for (int64_t i = 0; i < kOut * kIn; ++i)
      bits_.push_back(static_cast<uint16_t>(rng.below(infinity) | (rng.below(2) << 15)));
    layer_ = std::make_unique<DenseLinear>(DenseShape{kOut, kIn, GetParam()}, bits_);
  }

  double expected(int64_t row, int64_t channel, Level level) const {
    return level == 0 ? 0.0 : by_definition(bits_[static_cast<size_t>(channel * kOut + row)], GetParam());
  }

  std::vector<uint16_t> bits_;
  std::unique_ptr<DenseLinear> layer_;
};

TEST_P(DenseLayout, AChannelIsReadExactlyOrNotAtAll) {
  ASSERT_EQ(std::vector<int>(layer_->levels().begin(), layer_->levels().end()), (std::vector<int>{0, 16}));
  std::vector<Level> levels;
  for (int64_t i = 0; i < kIn; ++i) levels.push_back(i % 3 == 1 ? 0 : 16);
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, kOut}, {5, 21}, {kOut - 1, kOut}}) {
    MatrixBuffer<float> storage(end - begin, kIn + 3);
    layer_->dequantize_rows(levels, begin, end, storage.view().cols_between(0, kIn));
    for (int64_t row = begin; row < end; ++row)
      for (int64_t i = 0; i < kIn; ++i)
        ASSERT_EQ(static_cast<double>(storage.row(row - begin)[i]),
                  expected(row, i, levels[static_cast<size_t>(i)]))
            << row << " " << i;
  }
}

TEST_P(DenseLayout, BitsAreSixteenAWeightThatIsRead) {
  EXPECT_EQ(layer_->stored_bits().total(), 16 * kOut * kIn);
  EXPECT_EQ(layer_->stored_bits().codes(), 16 * kOut * kIn);
  LevelCounts counts;
  counts.channels[0] = kIn - 4;
  counts.channels[16] = 4;
  EXPECT_EQ(layer_->read_bits(counts).codes(), 4 * 16 * kOut);
  EXPECT_EQ(layer_->read_bits(counts).total(), 4 * 16 * kOut);
  EXPECT_EQ(layer_->read_bits(LevelCounts::uniform(0, kIn)).total(), 0);
}

TEST_P(DenseLayout, RebuildsIdentically) {
  const Buffers saved = copy_buffers(*layer_);
  const Json attributes = Json::parse(layer_->attributes().dump());
  const auto rebuilt = layouts().at("dense16").rebuild(saved, attributes);
  EXPECT_EQ(copy_buffers(*rebuilt), saved);
  EXPECT_EQ(rebuilt->attributes(), attributes);
  const MatrixBuffer<float> w = rebuilt->dequantize();
  for (int64_t row = 0; row < kOut; ++row)
    for (int64_t i = 0; i < kIn; ++i)
      ASSERT_EQ(static_cast<double>(w.row(row)[i]), expected(row, i, Level{16}));
}

TEST_P(DenseLayout, BuffersThatDoNotFitAreRefused) {
  Json attributes = layer_->attributes();
  Buffers saved = copy_buffers(*layer_);
  saved.at("weights").pop_back();
  EXPECT_REFUSED(layouts().at("dense16").rebuild(saved, attributes), "dense16 layer", "do not fit");
  saved.clear();
  EXPECT_REFUSED(layouts().at("dense16").rebuild(saved, attributes), "dense16 layer", "'weights'");
  attributes["dtype"] = "F32";
  EXPECT_REFUSED(layouts().at("dense16").rebuild(copy_buffers(*layer_), attributes), "'F32'", "F16 and BF16");
}

INSTANTIATE_TEST_SUITE_P(Types, DenseLayout, ::testing::Values(DType::f16, DType::bf16),
                         [](const auto& each) { return std::string(to_string(each.param)); });

}  // namespace
}  // namespace grinqh
