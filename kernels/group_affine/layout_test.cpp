#include "kernels/group_affine/layout.h"

#include <gtest/gtest.h>

#include "core/dtype.h"
#include "core/error.h"
#include "model_files.h"
#include "numbers.h"

namespace grinqh {
namespace {

std::vector<uint8_t> bytes_of(const QuantizedLinear& layer, const std::string& name) {
  const Buffers buffers = copy_buffers(layer);
  std::vector<uint8_t> bytes;
  for (const std::byte each : buffers.at(name)) bytes.push_back(std::to_integer<uint8_t>(each));
  return bytes;
}

TEST(GroupAffineLayout, ThreeBitCodesByHand) {
  const GroupAffineShape shape{2, 5, 3, 3, false};
  MatrixBuffer<uint8_t> codes(2, 5), zeros(2, 2);
  MatrixBuffer<uint16_t> scales(2, 2);
  const uint8_t code_values[] = {1, 2, 3, 4, 5, 7, 0, 6, 1, 2}, zero_values[] = {3, 4, 0, 7};
  const float scale_values[] = {0.5f, 2.0f, 1.0f, 0.25f};
  std::copy_n(code_values, 10, codes.data());
  std::copy_n(zero_values, 4, zeros.data());
  for (int i = 0; i < 4; ++i) scales.data()[i] = to_half(scale_values[i]);
  const GroupAffineLinear layer(shape, codes, scales, zeros);
  // Row 0: 101 100 011 010 001 from the last code to the first; rows start at a byte.
  EXPECT_EQ(bytes_of(layer, "codes"), (std::vector<uint8_t>{0b11010001, 0b01011000, 0b10000111, 0b00100011}));
  EXPECT_EQ(bytes_of(layer, "zeros"), (std::vector<uint8_t>{0b100011, 0b111000}));
  EXPECT_EQ(bytes_of(layer, "scales"),
            (std::vector<uint8_t>{0x00, 0x38, 0x00, 0x40, 0x00, 0x3c, 0x00, 0x34}));
  const MatrixBuffer<float> w = layer.dequantize();
  EXPECT_EQ(std::vector<float>(w.data(), w.data() + 10),
            (std::vector<float>{-1, -0.5f, 0, 0, 2, 7, 0, 6, -1.5f, -1.25f}));
}

TEST(GroupAffineLayout, SymmetricLayersStoreNoZeros) {
  const GroupAffineShape shape{1, 3, 2, 0, true};
  MatrixBuffer<uint8_t> codes(1, 3), zeros;
  MatrixBuffer<uint16_t> scales(1, 1);
  const uint8_t code_values[] = {0, 2, 3};
  std::copy_n(code_values, 3, codes.data());
  scales.data()[0] = to_half(1.0f);
  const GroupAffineLinear layer(shape, codes, scales, zeros);
  EXPECT_EQ(copy_buffers(layer).count("zeros"), 0u);
  const MatrixBuffer<float> w = layer.dequantize();
  EXPECT_EQ(std::vector<float>(w.data(), w.data() + 3), (std::vector<float>{-2, 0, 1}));
  const BitCount read = layer.read_bits(LevelCounts::uniform(2, 3));
  EXPECT_EQ(read.codes(), 6);
  EXPECT_EQ(read[Role::padding], 2);
  EXPECT_EQ(read[Role::scales], 16);
  EXPECT_EQ(read.total(), 24);
}

TEST(GroupAffineLayout, RealZerosAndColumnScalesByHand) {
  GroupAffineShape shape{2, 3, 2, 2};
  shape.real_zeros = shape.column_scales = true;
  MatrixBuffer<uint8_t> codes(2, 3);
  MatrixBuffer<uint16_t> scales(2, 2), zeros(2, 2);
  const uint8_t code_values[] = {0, 1, 3, 2, 3, 0};
  const float scale_values[] = {0.5f, 2.0f, 1.0f, 4.0f}, zero_values[] = {0.5f, -2.0f, 1.25f, 3.5f};
  std::copy_n(code_values, 6, codes.data());
  for (int i = 0; i < 4; ++i)
    scales.data()[i] = to_half(scale_values[i]), zeros.data()[i] = to_half(zero_values[i]);
  const std::vector<uint16_t> columns{to_half(1.0f), to_half(2.0f), to_half(0.5f)};
  const GroupAffineLinear layer(shape, codes, scales, zeros.view(), columns);
  EXPECT_EQ(bytes_of(layer, "zeros"), (std::vector<uint8_t>{0x00, 0x38, 0x00, 0xc0, 0x00, 0x3d, 0x00, 0x43}));
  EXPECT_EQ(bytes_of(layer, "column_scales"), (std::vector<uint8_t>{0x00, 0x3c, 0x00, 0x40, 0x00, 0x38}));
  const MatrixBuffer<float> w = layer.dequantize();
  EXPECT_EQ(
      std::vector<float>(w.data(), w.data() + 6),
      (std::vector<float>{0.5f * -0.5f, 2 * 0.5f * 0.5f, 0.5f * 2 * 5, 0.75f, 2 * 1.75f, 0.5f * 4 * -3.5f}));
  const BitCount read = layer.read_bits(LevelCounts::uniform(2, 3));
  EXPECT_EQ(read.codes(), 12);
  EXPECT_EQ(read[Role::padding], 4);
  EXPECT_EQ(read[Role::scales], (4 + 3) * 16) << "of groups and of columns";
  EXPECT_EQ(read[Role::zeros], 4 * 16);
  EXPECT_EQ(layer.stored_bits().total(), read.total());
}

struct Shaped {
  int bits;
  int64_t group;
  bool symmetric, real_zeros = false, column_scales = false;
};

class GroupAffineLayouts : public ::testing::TestWithParam<Shaped> {
 protected:
  static constexpr int64_t kOut = 7, kIn = 77;

  GroupAffineLayouts()
      : shape_{kOut,
               kIn,
               GetParam().bits,
               GetParam().group,
               GetParam().symmetric,
               GetParam().real_zeros,
               GetParam().column_scales},
        codes_(kOut, kIn),
        zeros_(kOut, shape_.groups()),
        real_zeros_(kOut, shape_.groups()),
        scales_(kOut, shape_.groups()) {
    Rng rng(1);
    const uint64_t count = uint64_t{1} << shape_.bits;
    for (int64_t i = 0; i < codes_.size(); ++i) codes_.data()[i] = static_cast<uint8_t>(rng.below(count));
    for (int64_t i = 0; i < zeros_.size(); ++i) {
      zeros_.data()[i] = static_cast<uint8_t>(rng.below(count));
      scales_.data()[i] = to_half(static_cast<float>(0.1 + rng.uniform()));
    }
    for (int64_t i = 0; i < real_zeros_.size(); ++i)
      real_zeros_.data()[i] = to_half(static_cast<float>(4 * rng.normal()));
    for (int64_t i = 0; i < (shape_.column_scales ? kIn : 0); ++i)
      column_scales_.push_back(to_half(static_cast<float>(0.1 + rng.uniform())));
    layer_ =
        shape_.real_zeros
            ? std::make_unique<GroupAffineLinear>(shape_, codes_, scales_, real_zeros_.view(), column_scales_)
            : std::make_unique<GroupAffineLinear>(shape_, codes_, scales_, zeros_.view(), column_scales_);
  }

  int64_t group_size() const { return GetParam().group == 0 ? kIn : std::min(GetParam().group, kIn); }

  GroupAffineShape shape_;
  MatrixBuffer<uint8_t> codes_, zeros_;
  MatrixBuffer<uint16_t> real_zeros_, scales_;
  std::vector<uint16_t> column_scales_;
  std::unique_ptr<GroupAffineLinear> layer_;
};

TEST_P(GroupAffineLayouts, WeightsDecodeByTheFormula) {
  const MatrixBuffer<float> w = layer_->dequantize();
  for (int64_t row = 0; row < kOut; ++row)
    for (int64_t i = 0; i < kIn; ++i) {
      const int64_t g = i / group_size();
      float zero = zeros_.view()(row, g);
      if (shape_.symmetric) zero = static_cast<float>(1 << (shape_.bits - 1));
      if (shape_.real_zeros) zero = from_half(real_zeros_.view()(row, g));
      float expected = from_half(scales_.view()(row, g)) * (static_cast<float>(codes_.view()(row, i)) - zero);
      if (shape_.column_scales) expected *= from_half(column_scales_[static_cast<size_t>(i)]);
      ASSERT_FLOAT_EQ(w.view()(row, i), expected) << row << " " << i;
    }
  MatrixBuffer<float> rows(2, kIn);
  layer_->dequantize_rows(std::vector<Level>(kIn, layer_->full_level()), 3, 5, rows);
  EXPECT_TRUE(std::equal(rows.data(), rows.data() + rows.size(), w.row(3)));
}

TEST_P(GroupAffineLayouts, CodesLieAtTheirBits) {
  const std::vector<uint8_t> bytes = bytes_of(*layer_, "codes");
  const auto row_bytes = static_cast<size_t>((kIn * shape_.bits + 7) / 8);
  ASSERT_EQ(bytes.size(), row_bytes * kOut);
  for (int64_t row = 0; row < kOut; ++row)
    for (int64_t i = 0; i < kIn; ++i) {
      int code = 0;
      for (int b = 0; b < shape_.bits; ++b) {
        const auto bit = static_cast<size_t>(i * shape_.bits + b);
        code |= ((bytes[static_cast<size_t>(row) * row_bytes + bit / 8] >> (bit % 8)) & 1) << b;
      }
      ASSERT_EQ(code, codes_.view()(row, i));
    }
}

TEST_P(GroupAffineLayouts, BitsAreTheBuffers) {
  const int64_t groups = (kIn + group_size() - 1) / group_size();
  int64_t bytes = 0;
  const Buffers saved = copy_buffers(*layer_);
  for (const auto& [name, buffer] : saved) bytes += static_cast<int64_t>(buffer.size());
  EXPECT_EQ(layer_->stored_bits().total(), bytes * 8);
  const BitCount read = layer_->read_bits(LevelCounts::uniform(layer_->full_level(), kIn));
  EXPECT_EQ(read.codes(), kOut * kIn * shape_.bits);
  EXPECT_EQ(read[Role::scales], (kOut * groups + (shape_.column_scales ? kIn : 0)) * 16);
  const int64_t zero_bits = shape_.real_zeros ? groups * 16 : (groups * shape_.bits + 7) / 8 * 8;
  EXPECT_EQ(read[Role::zeros], shape_.symmetric ? 0 : kOut * zero_bits);
  EXPECT_EQ(read.total(), layer_->stored_bits().total());
  EXPECT_EQ(layer_->levels().size(), shape_.bits == 8 ? 2u : 1u);
  EXPECT_EQ(layer_->full_level(), shape_.bits);
}

TEST_P(GroupAffineLayouts, ChannelsMayBeLeftOutAt8Bits) {
  if (shape_.bits != 8) return;
  EXPECT_EQ(layer_->levels().front(), 0);
  std::vector<Level> levels(kIn, 8);
  levels[2] = levels[kIn - 1] = 0;
  const MatrixBuffer<float> whole = layer_->dequantize();
  MatrixBuffer<float> w(kOut, kIn);
  layer_->dequantize_rows(levels, 0, kOut, w);
  for (int64_t row = 0; row < kOut; ++row)
    for (int64_t i = 0; i < kIn; ++i)
      ASSERT_EQ(w.view()(row, i), i == 2 || i == kIn - 1 ? 0.0f : whole.view()(row, i)) << row << " " << i;

  BitCount expected = layer_->read_bits(LevelCounts::uniform(8, kIn));
  expected[Role::codes] -= 2 * kOut * 8;
  if (shape_.column_scales) expected[Role::scales] -= 2 * 16;
  const BitCount read = layer_->read_bits(LevelCounts::of(levels, layer_->levels()));
  EXPECT_EQ(read.codes(), expected.codes());
  EXPECT_EQ(read.total(), expected.total());
}

TEST_P(GroupAffineLayouts, RebuildsIdentically) {
  const Buffers saved = copy_buffers(*layer_);
  const Json attributes = Json::parse(layer_->attributes().dump());
  const auto rebuilt = layouts().at("group_affine").rebuild(saved, attributes);
  EXPECT_EQ(copy_buffers(*rebuilt), saved);
  EXPECT_EQ(rebuilt->attributes(), attributes);
  EXPECT_EQ(rebuilt->full_level(), layer_->full_level());
  EXPECT_EQ(testing::relative_error(rebuilt->dequantize(), layer_->dequantize()), 0.0);
}

TEST_P(GroupAffineLayouts, BuffersThatDoNotFitAreRefused) {
  const Buffers whole = copy_buffers(*layer_);
  for (const auto& [name, bytes] : whole) {
    Buffers saved = whole;
    saved.erase(name);
    EXPECT_REFUSED(layouts().at("group_affine").rebuild(saved, layer_->attributes()), "group_affine layer",
                   "'" + name + "'");
    saved[name] = {bytes.begin(), bytes.end() - 1};
    EXPECT_REFUSED(layouts().at("group_affine").rebuild(saved, layer_->attributes()), "group_affine layer",
                   "'" + name + "'", fmt::format("{} bytes", bytes.size()));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Widths, GroupAffineLayouts,
    ::testing::Values(Shaped{2, 32, false}, Shaped{3, 32, false}, Shaped{4, 0, false}, Shaped{5, 10, false},
                      Shaped{6, 77, false}, Shaped{7, 100, false}, Shaped{8, 1, false}, Shaped{2, 0, true},
                      Shaped{3, 32, true}, Shaped{8, 32, true}, Shaped{3, 32, false, true},
                      Shaped{4, 0, false, true, true}, Shaped{5, 7, false, false, true},
                      Shaped{4, 32, true, false, true}, Shaped{8, 32, true, false, true}),
    [](const auto& each) {
      return fmt::format("{}bits_group{}{}{}{}", each.param.bits, each.param.group,
                         each.param.symmetric ? "_symmetric" : "", each.param.real_zeros ? "_real_zeros" : "",
                         each.param.column_scales ? "_column_scales" : "");
    });

}  // namespace
}  // namespace grinqh
