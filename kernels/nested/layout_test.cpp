#include "kernels/nested/layout.h"

#include <gtest/gtest.h>

#include "core/dtype.h"
#include "core/error.h"
#include "model_files.h"
#include "numbers.h"

namespace grinqh {
namespace {

MatrixBuffer<uint8_t> random_codes(int64_t out, int64_t in, uint64_t seed) {
  MatrixBuffer<uint8_t> codes(out, in);
  Rng rng(seed);
  for (int64_t i = 0; i < codes.size(); ++i) codes.data()[i] = static_cast<uint8_t>(rng.below(256));
  return codes;
}

std::vector<uint16_t> halves(const std::vector<float>& values) {
  std::vector<uint16_t> result;
  for (const float value : values) result.push_back(to_half(value));
  return result;
}

std::vector<uint8_t> bytes_of(const QuantizedLinear& layer, const std::string& name) {
  const Buffers buffers = copy_buffers(layer);
  std::vector<uint8_t> bytes;
  for (const std::byte each : buffers.at(name)) bytes.push_back(std::to_integer<uint8_t>(each));
  return bytes;
}

// 3 outputs, 2 inputs, one group a channel. Codes by channel: 10110001, 01000000, 11111111 and
// 00000001, 10000000, 01100110.
NestedShape small_shape(std::vector<Level> levels) {
  NestedShape shape;
  shape.out = 3;
  shape.in = 2;
  shape.group = 0;
  shape.levels = std::move(levels);
  return shape;
}

NestedLinear small_layer(NestedShape shape, const std::vector<uint16_t>& table = {}) {
  MatrixBuffer<uint8_t> codes(3, 2);
  const uint8_t values[] = {0b10110001, 0b00000001, 0b01000000, 0b10000000, 0b11111111, 0b01100110};
  std::copy_n(values, 6, codes.data());
  return NestedLinear(std::move(shape), codes, halves({1.0f, 0.5f}), halves({0.0f, -64.0f}), table);
}

TEST(NestedLayout, PlanesHoldTheBitsOfEachChannelMostSignificantFirst) {
  const NestedLinear layer = small_layer(small_shape({0, 2, 4, 8}));
  // Plane by plane, channel by channel: bit n is row n.
  EXPECT_EQ(bytes_of(layer, "planes"),
            (std::vector<uint8_t>{0b101, 0b010, 0b110, 0b100, 0b101, 0b100, 0b101, 0b000,  //
                                  0b100, 0b000, 0b100, 0b100, 0b100, 0b100, 0b101, 0b001}));
  EXPECT_EQ(bytes_of(layer, "scales"), (std::vector<uint8_t>{0x00, 0x3c, 0x00, 0x38}));  // 1, 0.5 in binary16
  EXPECT_EQ(bytes_of(layer, "minima"), (std::vector<uint8_t>{0x00, 0x00, 0x00, 0xd4}));  // 0, -64
}

TEST(NestedLayout, PlanesBeyondTheHighestLevelAreNotStored) {
  const NestedLinear layer = small_layer(small_shape({1, 3}));
  EXPECT_EQ(bytes_of(layer, "planes"), (std::vector<uint8_t>{0b101, 0b010, 0b110, 0b100, 0b101, 0b100}));
}

TEST(NestedLayout, APrefixDecodesToTheMiddleOfItsCell) {
  const NestedLinear layer = small_layer(small_shape({0, 2, 4, 8}));
  const std::vector<std::pair<int, std::vector<float>>> by_hand{
      {0, {0, 0, 0, 0, 0, 0}},
      // 2 bits: prefixes 10, 01, 11 and 00, 10, 01; cells of 64, middles at 32, 96, 160, 224.
      {2, {160, -48, 96, 16, 224, -16}},
      // 4 bits: 1011, 0100, 1111 and 0000, 1000, 0110; cells of 16.
      {4, {184, -60, 72, 4, 248, -12}},
      // 8 bits: 177, 64, 255 and 1, 128, 102, each and a half.
      {8, {177.5f, -63.25f, 64.5f, 0.25f, 255.5f, -12.75f}}};
  for (const auto& [level, expected] : by_hand) {
    const MatrixBuffer<float> w = layer.dequantize(static_cast<Level>(level));
    EXPECT_EQ(std::vector<float>(w.data(), w.data() + 6), expected) << level;
  }
}

TEST(NestedLayout, LevelsWithATableDecodeToItsEntries) {
  NestedShape shape = small_shape({0, 1, 2, 4});
  shape.table_levels = 2;
  const NestedLinear layer = small_layer(shape, halves({50, 200, 10, 90, 150, 240}));
  const MatrixBuffer<float> one = layer.dequantize(1), two = layer.dequantize(2), four = layer.dequantize(4);
  EXPECT_EQ(std::vector<float>(one.data(), one.data() + 6), (std::vector<float>{200, -39, 50, 36, 200, -39}));
  EXPECT_EQ(std::vector<float>(two.data(), two.data() + 6), (std::vector<float>{150, -59, 90, 11, 240, -19}));
  EXPECT_EQ(four.data()[0], 184.0f);  // beyond the table: the middle again
  EXPECT_EQ(layer.stored_bits()[Role::codebook], 6 * 16);
  EXPECT_EQ(layer.read_bits(LevelCounts::uniform(1, 2))[Role::codebook], 6 * 16);
}

TEST(NestedLayout, ReadBitsByHand) {
  // 10 outputs take 2 bytes of a plane, 6 bits of which are padding. 5 inputs, groups of 4 outputs: 3 a
  // channel, the last of 2.
  NestedShape shape;
  shape.out = 10;
  shape.in = 5;
  shape.group = 4;
  shape.levels = {0, 2, 8};
  const std::vector<uint16_t> parameters(15, to_half(1.0f));
  EXPECT_EQ(shape.parameters(), 15);
  LevelCounts counts;
  counts.channels[0] = 2;
  counts.channels[2] = 2;
  counts.channels[8] = 1;
  const NestedLinear by_output(shape, random_codes(10, 5, 1), parameters, parameters, {});
  const BitCount output = by_output.read_bits(counts);
  EXPECT_EQ(output.codes(), (2 * 2 + 1 * 8) * 10);
  EXPECT_EQ(output[Role::padding], (2 * 2 + 1 * 8) * 6);
  EXPECT_EQ(output[Role::scales], 3 * 3 * 16);  // of the channels that are read at all
  EXPECT_EQ(output[Role::zeros], 3 * 3 * 16);
  EXPECT_EQ(output.total(), 120 + 72 + 144 + 144);

  shape.axis = GroupAxis::input;  // groups of 4 and 1 inputs: 2 a row, read whatever the levels
  EXPECT_EQ(shape.parameters(), 20);
  const std::vector<uint16_t> by_row(20, to_half(1.0f));
  const NestedLinear by_input(shape, random_codes(10, 5, 1), by_row, by_row, {});
  const BitCount input = by_input.read_bits(counts);
  EXPECT_EQ(input.codes(), 120);
  EXPECT_EQ(input[Role::scales], 20 * 16);
  EXPECT_EQ(input.total(), 120 + 72 + 320 + 320);

  LevelCounts nothing;
  nothing.channels[0] = 5;
  EXPECT_EQ(by_output.read_bits(nothing).total(), 0);
}

struct Shaped {
  const char* name;
  int64_t out, in, group;
  GroupAxis axis;
  std::vector<Level> levels;
  int table_levels;
};

void PrintTo(const Shaped& shaped, std::ostream* out) { *out << shaped.name; }

class NestedLayouts : public ::testing::TestWithParam<Shaped> {
 protected:
  NestedLayouts() : codes_(random_codes(GetParam().out, GetParam().in, 3)) {
    const Shaped& shaped = GetParam();
    shape_.out = shaped.out;
    shape_.in = shaped.in;
    shape_.group = shaped.group;
    shape_.axis = shaped.axis;
    shape_.levels = shaped.levels;
    shape_.table_levels = shaped.table_levels;
    const auto parameters = shape_.parameters();
    scales_ = halves(testing::random_vector(parameters, 4));
    minima_ = halves(testing::random_vector(parameters, 5));
    for (int level = 1; level <= shaped.table_levels; ++level)
      for (int prefix = 0; prefix < 1 << level; ++prefix)
        table_.push_back(to_half(static_cast<float>(prefix * (256 >> level)) + 7.0f));
    layer_ = std::make_unique<NestedLinear>(shape_, codes_, scales_, minima_, table_);
  }

  // The weight by the header's formula, with the group found by division.
  float by_formula(int64_t row, int64_t channel, int level) const {
    if (level == 0) return 0.0f;
    const Shaped& shaped = GetParam();
    const int64_t extent = shaped.axis == GroupAxis::input ? shaped.in : shaped.out;
    const int64_t size = shaped.group == 0 || shaped.group > extent ? extent : shaped.group;
    const int64_t groups = (extent + size - 1) / size;
    const int64_t p =
        shaped.axis == GroupAxis::input ? row * groups + channel / size : channel * groups + row / size;
    const int prefix = codes_.view()(row, channel) >> (8 - level);
    const int cell = 256 >> level;
    const float position = level <= shaped.table_levels
                               ? static_cast<float>(prefix * cell) + 7.0f
                               : static_cast<float>(prefix * cell) + 0.5f * static_cast<float>(cell);
    return from_half(minima_[static_cast<size_t>(p)]) + from_half(scales_[static_cast<size_t>(p)]) * position;
  }

  NestedShape shape_;
  MatrixBuffer<uint8_t> codes_;
  std::vector<uint16_t> scales_, minima_, table_;
  std::unique_ptr<NestedLinear> layer_;
};

TEST_P(NestedLayouts, EveryLevelDecodesByTheFormula) {
  for (const Level level : shape_.levels) {
    const MatrixBuffer<float> w = layer_->dequantize(level);
    for (int64_t row = 0; row < shape_.out; ++row)
      for (int64_t i = 0; i < shape_.in; ++i)
        ASSERT_FLOAT_EQ(w.view()(row, i), by_formula(row, i, level)) << int{level} << " " << row << " " << i;
  }
}

TEST_P(NestedLayouts, RowsAndLevelsMixFreely) {
  std::vector<Level> levels;
  for (int64_t i = 0; i < shape_.in; ++i)
    levels.push_back(shape_.levels[static_cast<size_t>(i * 7) % shape_.levels.size()]);
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, shape_.out},
                                   {shape_.out / 3, shape_.out - 1},
                                   {shape_.out - 1, shape_.out}}) {
    MatrixBuffer<float> storage(end - begin, shape_.in + 2);
    layer_->dequantize_rows(levels, begin, end, storage.view().cols_between(0, shape_.in));
    for (int64_t row = begin; row < end; ++row)
      for (int64_t i = 0; i < shape_.in; ++i)
        ASSERT_FLOAT_EQ(storage.view()(row - begin, i), by_formula(row, i, levels[static_cast<size_t>(i)]));
  }
}

TEST_P(NestedLayouts, AHigherLevelReadsTheLowerOnesPlanesFirst) {
  // A layer of the lower levels alone is a prefix of every plane buffer of the whole one.
  const std::vector<uint8_t> whole = bytes_of(*layer_, "planes");
  for (size_t keep = 1; keep < shape_.levels.size(); ++keep) {
    NestedShape lower = shape_;
    lower.levels.resize(keep);
    if (lower.levels.back() == 0) continue;
    lower.table_levels = std::min<int>(lower.table_levels, lower.levels.back());
    const auto entries = static_cast<size_t>(NestedShape::table_offset(lower.table_levels + 1));
    const NestedLinear prefix(lower, codes_, scales_, minima_, {table_.begin(), table_.begin() + entries});
    const std::vector<uint8_t> planes = bytes_of(prefix, "planes");
    ASSERT_LT(planes.size(), whole.size());
    EXPECT_TRUE(std::equal(planes.begin(), planes.end(), whole.begin()));
    EXPECT_EQ(testing::relative_error(prefix.dequantize(), layer_->dequantize(lower.levels.back())), 0.0);
  }
}

TEST_P(NestedLayouts, StoredBitsAreTheBuffers) {
  int64_t bytes = 0;
  const Buffers saved = copy_buffers(*layer_);
  for (const auto& [name, buffer] : saved) bytes += static_cast<int64_t>(buffer.size());
  EXPECT_EQ(layer_->stored_bits().total(), bytes * 8);
  EXPECT_EQ(layer_->stored_bits()[Role::codes], shape_.planes() * shape_.in * ((shape_.out + 7) / 8) * 8);
  EXPECT_EQ(layer_->stored_bits()[Role::scales], shape_.parameters() * 16);
  for (const Level level : shape_.levels)
    EXPECT_LE(layer_->read_bits(LevelCounts::uniform(level, shape_.in)).total(),
              layer_->stored_bits().total());
  // Read in full, nothing is left out: padding only changes the role that its bits are booked under.
  EXPECT_EQ(layer_->read_bits(LevelCounts::uniform(layer_->full_level(), shape_.in)).total(),
            layer_->stored_bits().total());
}

TEST_P(NestedLayouts, RebuildsIdentically) {
  const Buffers saved = copy_buffers(*layer_);
  const Json attributes = Json::parse(layer_->attributes().dump());
  const auto rebuilt = layouts().at("nested").rebuild(saved, attributes);
  EXPECT_EQ(copy_buffers(*rebuilt), saved);
  EXPECT_EQ(rebuilt->attributes(), attributes);
  for (const Level level : shape_.levels)
    EXPECT_EQ(testing::relative_error(rebuilt->dequantize(level), layer_->dequantize(level)), 0.0);
}

TEST_P(NestedLayouts, BuffersThatDoNotFitAreRefused) {
  const Json attributes = layer_->attributes();
  const Buffers whole = copy_buffers(*layer_);
  for (const auto& [name, bytes] : whole) {
    Buffers saved = whole;
    saved.erase(name);
    EXPECT_REFUSED(layouts().at("nested").rebuild(saved, attributes), "nested layer", "'" + name + "'");
    saved[name] = {bytes.begin(), bytes.end() - 2};
    EXPECT_REFUSED(layouts().at("nested").rebuild(saved, attributes), "nested layer", "do not fit");
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, NestedLayouts,
    ::testing::Values(Shaped{"ByOutput", 128, 24, 64, GroupAxis::output, {0, 2, 4, 8}, 0},
                      Shaped{"ByOutputShortGroup", 131, 17, 50, GroupAxis::output, {0, 2, 4, 8}, 4},
                      Shaped{"ByOutputWholeAxis", 70, 9, 0, GroupAxis::output, {1, 2, 3, 4, 5, 6, 7, 8}, 6},
                      Shaped{"ByInputShortGroup", 67, 50, 16, GroupAxis::input, {0, 1, 2, 3, 4, 5, 6, 8}, 3},
                      Shaped{"ByInputWholeAxis", 9, 33, 0, GroupAxis::input, {3, 6}, 0},
                      Shaped{"GroupBeyondTheAxis", 5, 7, 1000, GroupAxis::output, {5}, 2}),
    [](const auto& each) { return each.param.name; });

}  // namespace
}  // namespace grinqh
