#include "kernels/group_mixed/layout.h"

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

TEST(GroupMixedLayout, ThreeWidthsByHand) {
  const GroupMixedShape shape{1, 8, 3, {2, 3, 1}};  // groups of 3, 3 and 2 inputs
  GroupMixedParts parts(shape);
  const uint8_t codes[] = {1, 2, 3, 4, 5, 7, 0, 1}, zeros[] = {2, 5, 0};
  const float scales[] = {0.5f, 2.0f, 0.25f}, means[] = {0, 0, 3.0f};
  std::copy_n(codes, 8, parts.codes.data());
  std::copy_n(zeros, 3, parts.zeros.data());
  for (int g = 0; g < 3; ++g) {
    parts.scales.data()[g] = to_half(scales[g]);
    parts.means.data()[g] = to_half(means[g]);
  }
  const GroupMixedLinear layer(shape, parts);
  // From the last code to the first: 1 0 111 101 100 11 10 01.
  EXPECT_EQ(bytes_of(layer, "codes"), (std::vector<uint8_t>{0b00111001, 0b01111011, 0b1}));
  EXPECT_EQ(bytes_of(layer, "zeros"), (std::vector<uint8_t>{0b10110}));
  EXPECT_EQ(bytes_of(layer, "means"), (std::vector<uint8_t>{0x00, 0x42}));
  EXPECT_EQ(bytes_of(layer, "widths"), (std::vector<uint8_t>{2, 3, 1}));
  const MatrixBuffer<float> w = layer.dequantize();
  EXPECT_EQ(std::vector<float>(w.data(), w.data() + 8),
            (std::vector<float>{-0.5f, 0, 0.5f, -2, 0, 4, 2.75f, 3.25f}));
  EXPECT_EQ(layer.full_level(), 3);
  const BitCount read = layer.read_bits(LevelCounts::uniform(3, 8));
  EXPECT_EQ(read.codes(), 17);
  EXPECT_EQ(read[Role::padding], 7);
  EXPECT_EQ(read[Role::scales], 48);
  EXPECT_EQ(read[Role::zeros], 8 + 16);
  EXPECT_EQ(read[Role::index], 24);
  EXPECT_EQ(read.total(), layer.stored_bits().total());
}

class GroupMixedLayouts : public ::testing::TestWithParam<std::vector<uint8_t>> {
 protected:
  static constexpr int64_t kOut = 7, kGroup = 20;

  GroupMixedLayouts()
      : shape_{kOut, kGroup * std::ssize(GetParam()) - 3, kGroup, GetParam()}, parts_(shape_) {
    Rng rng(1);
    for (int64_t row = 0; row < kOut; ++row)
      for (int64_t g = 0; g < shape_.groups(); ++g) {
        const auto values = uint64_t{1} << shape_.widths[static_cast<size_t>(g)];
        for (int64_t i = shape_.begin_of(g); i < shape_.end_of(g); ++i)
          parts_.codes.row(row)[i] = static_cast<uint8_t>(rng.below(values));
        parts_.zeros.row(row)[g] = static_cast<uint8_t>(rng.below(values));
        parts_.scales.row(row)[g] = to_half(static_cast<float>(0.1 + rng.uniform()));
        parts_.means.row(row)[g] = to_half(static_cast<float>(rng.normal()));
      }
    layer_ = std::make_unique<GroupMixedLinear>(shape_, parts_);
  }

  GroupMixedShape shape_;
  GroupMixedParts parts_;
  std::unique_ptr<GroupMixedLinear> layer_;
};

TEST_P(GroupMixedLayouts, WeightsDecodeByTheFormula) {
  const MatrixBuffer<float> w = layer_->dequantize();
  for (int64_t row = 0; row < kOut; ++row)
    for (int64_t i = 0; i < shape_.in; ++i) {
      const int64_t g = i / kGroup;
      const float scale = from_half(parts_.scales.row(row)[g]);
      const int code = parts_.codes.row(row)[i];
      const float expected = shape_.widths[static_cast<size_t>(g)] == 1
                                 ? from_half(parts_.means.row(row)[g]) + (code ? scale : -scale)
                                 : scale * static_cast<float>(code - parts_.zeros.row(row)[g]);
      ASSERT_FLOAT_EQ(w.row(row)[i], expected) << row << " " << i;
    }
}

TEST_P(GroupMixedLayouts, RebuildsIdentically) {
  const Buffers saved = copy_buffers(*layer_);
  const Json attributes = Json::parse(layer_->attributes().dump());
  const auto rebuilt = layouts().at("group_mixed").rebuild(saved, attributes);
  EXPECT_EQ(copy_buffers(*rebuilt), saved);
  EXPECT_EQ(rebuilt->attributes(), attributes);
  EXPECT_EQ(rebuilt->full_level(), layer_->full_level());
  EXPECT_EQ(testing::relative_error(rebuilt->dequantize(), layer_->dequantize()), 0.0);
}

TEST_P(GroupMixedLayouts, BuffersThatDoNotFitAreRefused) {
  const Buffers whole = copy_buffers(*layer_);
  for (const auto& [name, bytes] : whole) {
    Buffers saved = whole;
    saved[name].push_back(std::byte{1});
    EXPECT_REFUSED(layouts().at("group_mixed").rebuild(saved, layer_->attributes()), "group_mixed layer",
                   "'" + name + "'", fmt::format("{} bytes", bytes.size()));
  }
  Buffers saved = whole;
  saved.at("widths")[0] = std::byte{9};
  EXPECT_REFUSED(layouts().at("group_mixed").rebuild(saved, layer_->attributes()), "'widths' holds 9",
                 "1 to 8");
}

INSTANTIATE_TEST_SUITE_P(Widths, GroupMixedLayouts,
                         ::testing::Values(std::vector<uint8_t>{3}, std::vector<uint8_t>{1},
                                           std::vector<uint8_t>{2, 3, 4}, std::vector<uint8_t>{1, 2, 3, 1},
                                           std::vector<uint8_t>{8, 5, 7, 6}));

}  // namespace
}  // namespace grinqh
