#include "kernels/lut_planes/layout.h"

#include "core/dtype.h"
#include "model_files.h"
#include "numbers.h"

namespace grinqh {
namespace {

std::vector<uint16_t> halves(const std::vector<float>& values) {
  std::vector<uint16_t> result;
  for (const float value : values) result.push_back(to_half(value));
  return result;
}

template <class T>
std::vector<T> values_of(const QuantizedLinear& layer, const std::string& name) {
  const Buffers buffers = copy_buffers(layer);
  const std::vector<std::byte>& bytes = buffers.at(name);
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

// 2 outputs, 3 inputs, levels 1 and 3. Codes 101 010 111 and 000 100 011.
LutPlanesLinear small_layer(std::vector<Level> levels, const Outliers& outliers = {}) {
  MatrixBuffer<uint8_t> codes(2, 3);
  const uint8_t values[] = {0b101, 0b010, 0b111, 0b000, 0b100, 0b011};
  std::copy_n(values, 6, codes.data());
  MatrixBuffer<float> weight(2, 3);
  std::fill_n(weight.data(), 6, 0.0f);
  weight.row(1)[0] = -64;
  weight.row(1)[2] = 0.5f;
  return LutPlanesLinear("layer", {2, 3, std::move(levels)}, codes,
                         halves({-1, 1,  -2, 2,                     // level 1, by row
                                 0,  1,  2,  3,  4,  5,  6,  7,     // level 3, row 0
                                 10, 11, 12, 13, 14, 15, 16, 17}),  // row 1
                         outliers, weight);
}

std::vector<float> all(const MatrixBuffer<float>& w) { return {w.data(), w.data() + w.size()}; }

TEST(LutPlanesLayout, PlanesHoldTheBitsOfEachRowMostSignificantFirst) {
  const LutPlanesLinear layer = small_layer({1, 3});
  // Plane by plane, row by row: bit i is input i.
  EXPECT_EQ(values_of<uint32_t>(layer, "planes"),
            (std::vector<uint32_t>{0b101, 0b010, 0b110, 0b100, 0b101, 0b100}));
  EXPECT_EQ(values_of<uint16_t>(layer, "tables").size(), 2u * (2 + 8));
}

TEST(LutPlanesLayout, APrefixDecodesThroughItsLevelsTable) {
  const LutPlanesLinear layer = small_layer({1, 3});
  EXPECT_EQ(all(layer.dequantize(1)), (std::vector<float>{1, -1, 1, -2, 2, -2}));
  EXPECT_EQ(all(layer.dequantize(3)), (std::vector<float>{5, 2, 7, 10, 14, 13}));
}

TEST(LutPlanesLayout, OutliersStandInPlaceOfTheirCodesAtEveryLevelButZero) {
  const LutPlanesLinear layer = small_layer({0, 1, 3}, {{0, 0, 2}, {0, 2}});
  EXPECT_EQ(all(layer.dequantize(1)), (std::vector<float>{1, -1, 1, -64, 2, 0.5f}));
  EXPECT_EQ(all(layer.dequantize(3)), (std::vector<float>{5, 2, 7, -64, 14, 0.5f}));
  EXPECT_EQ(all(layer.dequantize(0)), std::vector<float>(6, 0.0f));
  MatrixBuffer<float> row(1, 3);
  layer.dequantize_rows(std::vector<Level>{0, 3, 1}, 1, 2, row);
  EXPECT_EQ(all(row), (std::vector<float>{0, 14, 0.5f}));
  EXPECT_EQ(values_of<uint32_t>(layer, "outlier_rows"), (std::vector<uint32_t>{0, 0, 2}));
  EXPECT_EQ(values_of<uint16_t>(layer, "outlier_columns"), (std::vector<uint16_t>{0, 2}));
  EXPECT_EQ(values_of<uint16_t>(layer, "outlier_values"), halves({-64, 0.5f}));
}

TEST(LutPlanesLayout, ReadBitsByHand) {
  const LutPlanesLinear layer = small_layer({0, 1, 3}, {{0, 0, 2}, {0, 2}});
  const BitCount one = layer.read_bits(LevelCounts::uniform(1, 3));
  EXPECT_EQ(one.codes(), 6);
  EXPECT_EQ(one[Role::padding], 2 * 29);  // rows of 3 inputs take a word of 32
  EXPECT_EQ(one[Role::codebook], 2 * 2 * 16);
  EXPECT_EQ(one[Role::index], 3 * 32 + 2 * 16);
  EXPECT_EQ(one[Role::outliers], 2 * 16);
  const BitCount three = layer.read_bits(LevelCounts::uniform(3, 3));
  EXPECT_EQ(three.codes(), 18);
  EXPECT_EQ(three[Role::padding], 3 * 2 * 29);
  EXPECT_EQ(three[Role::codebook], 2 * 8 * 16);
  // Every plane that a channel reaches is read whole, and the tables of both levels: all there is.
  LevelCounts mixed;
  mixed.channels = {1, 1, 0, 1};
  EXPECT_EQ(layer.read_bits(mixed).total(), layer.stored_bits().total());
  EXPECT_EQ(layer.read_bits(mixed)[Role::codebook], (2 + 8) * 2 * 16);
  EXPECT_EQ(layer.read_bits(LevelCounts::uniform(0, 3)).total(), 0);
}

TEST(LutPlanesLayout, OutliersBeyondFloat16AreRefusedWithTheLayersName) {
  MatrixBuffer<uint8_t> codes = MatrixBuffer<uint8_t>::zeroed(1, 1);
  MatrixBuffer<float> weight(1, 1);
  weight.row(0)[0] = 1e6f;
  EXPECT_REFUSED(LutPlanesLinear("some.layer", {1, 1, {1}}, codes, halves({0, 0}), {{0, 1}, {0}}, weight),
                 "some.layer", "outlier", "float16");
}

struct Shaped {
  const char* name;
  int64_t out, in;
  std::vector<Level> levels;
  bool outliers;
};

void PrintTo(const Shaped& shaped, std::ostream* out) { *out << shaped.name; }

class LutPlanesLayouts : public ::testing::TestWithParam<Shaped> {
 protected:
  LutPlanesLayouts() : codes_(GetParam().out, GetParam().in) {
    const Shaped& shaped = GetParam();
    shape_ = {shaped.out, shaped.in, shaped.levels};
    Rng rng(3);
    for (int64_t i = 0; i < codes_.size(); ++i)
      codes_.data()[i] = static_cast<uint8_t>(rng.below(uint64_t{1} << shape_.planes()));
    tables_ = testing::random_vector(shape_.table_offset(kFullLevel), 4);
    if (shaped.outliers) {
      outliers_.row_begin.push_back(0);
      for (int64_t row = 0; row < shaped.out; ++row) {
        for (int64_t i = row % 5; i < shaped.in; i += 11)
          outliers_.columns.push_back(static_cast<uint32_t>(i));
        outliers_.row_begin.push_back(static_cast<uint32_t>(outliers_.columns.size()));
      }
    }
    layer_ = std::make_unique<LutPlanesLinear>("layer", shape_, codes_, halves(tables_), outliers_, weight_);
  }

  // By the header's description.
  float by_definition(int64_t row, int64_t i, Level level) const {
    if (level == 0) return 0.0f;
    if (GetParam().outliers && i % 11 == row % 5) return from_half(to_half(weight_.view()(row, i)));
    int64_t entry = 0;
    for (const Level each : GetParam().levels)
      if (each > 0 && each < level) entry += GetParam().out * (int64_t{1} << each);
    entry += row * (int64_t{1} << level) + (codes_.view()(row, i) >> (GetParam().levels.back() - level));
    return from_half(to_half(tables_[static_cast<size_t>(entry)]));
  }

  LutPlanesShape shape_;
  MatrixBuffer<uint8_t> codes_;
  MatrixBuffer<float> weight_ = testing::random_matrix(GetParam().out, GetParam().in, 5);
  std::vector<float> tables_;
  Outliers outliers_;
  std::unique_ptr<LutPlanesLinear> layer_;
};

TEST_P(LutPlanesLayouts, EveryLevelDecodesByTheDefinition) {
  for (const Level level : shape_.levels) {
    const MatrixBuffer<float> w = layer_->dequantize(level);
    for (int64_t row = 0; row < shape_.out; ++row)
      for (int64_t i = 0; i < shape_.in; ++i)
        ASSERT_EQ(w.view()(row, i), by_definition(row, i, level)) << int{level} << " " << row << " " << i;
  }
}

TEST_P(LutPlanesLayouts, RowsAndLevelsMixFreely) {
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
        ASSERT_EQ(storage.view()(row - begin, i), by_definition(row, i, levels[static_cast<size_t>(i)]));
  }
}

TEST_P(LutPlanesLayouts, AHigherLevelReadsTheLowerOnesPlanesFirst) {
  const auto whole = values_of<uint32_t>(*layer_, "planes");
  for (size_t keep = 1; keep < shape_.levels.size(); ++keep) {
    LutPlanesShape lower = shape_;
    lower.levels.resize(keep);
    if (lower.levels.back() == 0) continue;
    MatrixBuffer<uint8_t> prefixes(shape_.out, shape_.in);
    for (int64_t i = 0; i < codes_.size(); ++i)
      prefixes.data()[i] = static_cast<uint8_t>(codes_.data()[i] >> (shape_.planes() - lower.planes()));
    std::vector<uint16_t> tables = halves(tables_);
    tables.resize(static_cast<size_t>(lower.table_offset(kFullLevel)));
    const LutPlanesLinear prefix("layer", lower, prefixes, tables, outliers_, weight_);
    const auto planes = values_of<uint32_t>(prefix, "planes");
    ASSERT_LT(planes.size(), whole.size());
    EXPECT_TRUE(std::equal(planes.begin(), planes.end(), whole.begin()));
    EXPECT_EQ(all(prefix.dequantize()), all(layer_->dequantize(lower.levels.back())));
  }
}

TEST_P(LutPlanesLayouts, StoredBitsAreTheBuffers) {
  int64_t bytes = 0;
  for (const auto& [name, buffer] : copy_buffers(*layer_)) bytes += static_cast<int64_t>(buffer.size());
  EXPECT_EQ(layer_->stored_bits().total(), bytes * 8);
  EXPECT_EQ(layer_->stored_bits()[Role::codes], shape_.planes() * shape_.out * ((shape_.in + 31) / 32) * 32);
  EXPECT_EQ(layer_->stored_bits()[Role::outliers], outliers_.count() * 16);
  EXPECT_EQ(layer_->stored_bits()[Role::index], outliers_.count() * (shape_.in > 65536 ? 32 : 16) +
                                                    (outliers_.none() ? 0 : (shape_.out + 1) * 32));
  // A token with channels of every level reads all that is stored, and no token reads more.
  LevelCounts every;
  for (const Level level : shape_.levels) {
    every.channels[level] = 1;
    const int64_t read = layer_->read_bits(LevelCounts::uniform(level, shape_.in)).total();
    EXPECT_LE(read, layer_->stored_bits().total());
  }
  EXPECT_EQ(layer_->read_bits(every).total(), layer_->stored_bits().total());
}

TEST_P(LutPlanesLayouts, RebuildsIdentically) {
  const Buffers saved = copy_buffers(*layer_);
  const Json attributes = Json::parse(layer_->attributes().dump());
  const auto rebuilt = layouts().at("lut_planes").rebuild(saved, attributes);
  EXPECT_EQ(copy_buffers(*rebuilt), saved);
  EXPECT_EQ(rebuilt->attributes(), attributes);
  for (const Level level : shape_.levels)
    EXPECT_EQ(all(rebuilt->dequantize(level)), all(layer_->dequantize(level)));
}

TEST_P(LutPlanesLayouts, BuffersThatDoNotFitAreRefused) {
  const Json attributes = layer_->attributes();
  const Buffers whole = copy_buffers(*layer_);
  for (const auto& [name, bytes] : whole) {
    Buffers saved = whole;
    saved.erase(name);
    EXPECT_REFUSED(layouts().at("lut_planes").rebuild(saved, attributes), "lut_planes layer",
                   "'" + name + "'");
    saved[name] = {bytes.begin(), bytes.end() - 2};
    EXPECT_REFUSED(layouts().at("lut_planes").rebuild(saved, attributes), "lut_planes layer", "not fit");
  }
  if (outliers_.none()) return;
  Buffers saved = whole;
  std::ranges::fill(saved["outlier_columns"], std::byte{255});
  if (shape_.in <= 65535)
    EXPECT_REFUSED(layouts().at("lut_planes").rebuild(saved, attributes), "lut_planes layer", "do not fit");
}

INSTANTIATE_TEST_SUITE_P(Shapes, LutPlanesLayouts,
                         ::testing::Values(Shaped{"WholeWords", 12, 64, {3, 4, 5, 6, 7, 8}, false},
                                           Shaped{"OneLevel", 7, 50, {4}, true},
                                           Shaped{"WithLevelZero", 9, 33, {0, 2, 3}, true},
                                           Shaped{"AllLevels", 5, 31, {0, 1, 2, 3, 4, 5, 6, 7, 8}, false},
                                           Shaped{"WideColumns", 2, 65537, {2, 5}, true}),
                         [](const auto& each) { return each.param.name; });

}  // namespace
}  // namespace grinqh
