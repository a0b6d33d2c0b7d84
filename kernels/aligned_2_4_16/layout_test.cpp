#include "kernels/aligned_2_4_16/layout.h"

#include <gtest/gtest.h>

#include <cstring>

#include "core/dtype.h"
#include "core/error.h"
#include "model_files.h"
#include "numbers.h"

namespace grinqh {
namespace {

template <class T>
std::vector<T> values_of(const QuantizedLinear& layer, const std::string& name) {
  const Buffers buffers = copy_buffers(layer);
  const std::vector<std::byte>& bytes = buffers.at(name);
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

// Random contents; every `wide_every`-th group is wide, a share of the narrow weights are outliers.
struct Contents {
  Aligned2416Shape shape;
  Aligned2416Parts parts;

  static Aligned2416Shape shape_of(int64_t out, int64_t in, int64_t wide_every) {
    Aligned2416Shape shape{out, in, {}};
    for (int64_t g = 0; g < shape.groups(); ++g)
      shape.wide.push_back(wide_every > 0 && g % wide_every == wide_every - 1);
    return shape;
  }

  // An outlier every `outlier_every` narrow weights.
  Contents(int64_t out, int64_t in, int64_t wide_every, int64_t outlier_every)
      : shape(shape_of(out, in, wide_every)), parts(shape) {
    Rng rng(7);
    const std::vector<int64_t> places = shape.places();
    for (int64_t g = 0; g < shape.groups(); ++g) {
      const bool wide = shape.wide[static_cast<size_t>(g)];
      const auto scale_codes = uint64_t{1} << Aligned2416Shape::scale_bits(places[static_cast<size_t>(g)]);
      for (int64_t row = 0; row < out; ++row) {
        for (int64_t i = 16 * g; i < 16 * g + shape.width_of(g); ++i)
          parts.codes.row(row)[i] = static_cast<uint8_t>(rng.below(wide ? 16 : 4));
        parts.zeros.row(row)[g] = static_cast<uint8_t>(rng.below(wide ? 16 : 4));
        parts.wide_scales.row(row)[g] = to_half(static_cast<float>(0.1 + rng.uniform()));
        parts.scale_codes.row(row)[g] = static_cast<uint8_t>(rng.below(scale_codes));
      }
      for (int64_t block = 0; block < shape.row_blocks(); ++block) {
        parts.second_scales.row(block)[g] = to_half(static_cast<float>(0.1 + rng.uniform()));
        parts.second_zeros.row(block)[g] = static_cast<uint8_t>(rng.below(scale_codes));
      }
    }
    int64_t narrow = 0;
    for (int64_t row = 0; row < out; ++row)
      for (int64_t i = 0; i < in; ++i)
        if (!shape.wide[static_cast<size_t>(i / 16)] && outlier_every > 0 && ++narrow % outlier_every == 0) {
          parts.codes.row(row)[i] = parts.zeros.row(row)[i / 16];
          parts.outliers.push_back({row, i, to_half(static_cast<float>(rng.normal()))});
        }
  }

  std::unique_ptr<Aligned2416Linear> layer() const {
    return std::make_unique<Aligned2416Linear>(shape, parts);
  }
};

TEST(Aligned2416Layout, SlotsAndPackedScalesByHand) {
  // One row of 68 inputs: groups 0, 2 and 4 are narrow, 1 and 3 wide, and group 4 has 4 inputs.
  Aligned2416Shape shape{1, 68, {0, 1, 0, 1, 0}};
  Aligned2416Parts parts(shape);
  for (int64_t i = 0; i < 68; ++i) {
    const bool wide = shape.wide[static_cast<size_t>(i / 16)];
    parts.codes.row(0)[i] = static_cast<uint8_t>(wide ? i % 16 : i % 4);
  }
  const uint8_t zeros[] = {1, 9, 2, 5, 3}, scale_codes[] = {5, 0, 6, 0, 13},
                second_zeros[] = {7, 0, 2, 0, 11};
  const float second_scales[] = {0.5f, 0, 1.0f, 0, 2.0f}, wide_scales[] = {0, 0.25f, 0, 4.0f, 0};
  for (int64_t g = 0; g < 5; ++g) {
    parts.zeros.row(0)[g] = zeros[g];
    parts.scale_codes.row(0)[g] = scale_codes[g];
    parts.second_zeros.row(0)[g] = second_zeros[g];
    parts.second_scales.row(0)[g] = to_half(second_scales[g]);
    parts.wide_scales.row(0)[g] = to_half(wide_scales[g]);
  }
  parts.codes.row(0)[33] = 2;  // the zero point of its group
  parts.outliers.push_back({0, 33, to_half(-7.5f)});
  const Aligned2416Linear layer(shape, parts);

  EXPECT_EQ(values_of<uint32_t>(layer, "codes"),
            (std::vector<uint32_t>{0xe4e4e4e4, 0x76543210, 0xe4e4e4e8, 0x76543210, 0xe4}));
  EXPECT_EQ(values_of<uint32_t>(layer, "split"), (std::vector<uint32_t>{0xfedcba98, 0xfedcba98}));
  EXPECT_EQ(values_of<uint16_t>(layer, "first"), (std::vector<uint16_t>{0b1101'110'101'11'10'01}));
  EXPECT_EQ(values_of<uint16_t>(layer, "second_zeros"), (std::vector<uint16_t>{0xb27}));
  EXPECT_EQ(values_of<uint8_t>(layer, "wide_zeros"), (std::vector<uint8_t>{9, 5}));
  EXPECT_EQ(values_of<uint8_t>(layer, "wide"), (std::vector<uint8_t>{0b01010}));
  EXPECT_EQ(values_of<uint16_t>(layer, "outlier_counts"), (std::vector<uint16_t>{1}));
  EXPECT_EQ(values_of<uint16_t>(layer, "outlier_columns"), (std::vector<uint16_t>{33}));

  const MatrixBuffer<float> w = layer.dequantize();
  EXPECT_EQ(w.data()[3], 0.5f * (5 + 7) * (3 - 1));
  EXPECT_EQ(w.data()[16], 0.25f * (0 - 9));
  EXPECT_EQ(w.data()[31], 0.25f * (15 - 9));
  EXPECT_EQ(w.data()[32], 1.0f * (6 + 2) * (0 - 2));
  EXPECT_EQ(w.data()[33], -7.5f);
  EXPECT_EQ(w.data()[67], 2.0f * (13 + 11) * (3 - 3));
}

// The paper's 2.91 bits a weight: 2 + 16/48 + 16/256 + 4/256 in narrow groups and 32 for each of their
// outliers, 4 + 20/16 in wide ones; an eighth of the groups wide, outliers half a percent.
TEST(Aligned2416Layout, BitsAWeightAreThoseOfThePaper) {
  const Contents contents(400, 1536, 8, 200);
  const auto layer = contents.layer();
  const BitCount stored = layer->stored_bits();
  // All of it in units of a 768th of a bit: 2.411458.., 0.16 and 5.25 bits.
  const int64_t weights = layer->weights();
  const int64_t narrow = weights * 7 / 8, wide = weights / 8;
  ASSERT_EQ(narrow % 768, 0);
  const int64_t expected = narrow / 768 * (2 * 768 + 256 + 48 + 12) + narrow / 200 * 32 + wide / 4 * 21;
  EXPECT_EQ(stored.total() - stored[Role::index], expected);
  EXPECT_NEAR(static_cast<double>(expected) / static_cast<double>(weights), 2.906, 0.0005);
  EXPECT_EQ(stored[Role::outliers], narrow / 200 * 32);
  // What the count leaves out: 16 bits a row for where its outliers end, one bit a group for its width.
  EXPECT_EQ(stored[Role::index], 400 * 16 + 96);
  EXPECT_EQ(stored[Role::padding], 0);
  const BitCount read = layer->read_bits(LevelCounts::uniform(4, 1536));
  EXPECT_EQ(read.total(), stored.total());
  EXPECT_EQ(read.codes(), 2 * narrow + 4 * wide);
  EXPECT_EQ(read[Role::padding], 0);
}

TEST(Aligned2416Layout, PaddingOfOddShapesIsNotCountedAsCodes) {
  const auto layer = Contents(5, 37, 2, 0).layer();  // groups of 16 (narrow), 16 (wide), 5 (narrow)
  const BitCount read = layer->read_bits(LevelCounts::uniform(4, 37));
  EXPECT_EQ(read.codes(), 5 * (2 * 21 + 4 * 16));
  EXPECT_EQ(read[Role::padding], 5 * 11 * 2);
  EXPECT_EQ(read.total(), layer->stored_bits().total());
}

struct Shaped {
  int64_t out, in, wide_every, outlier_every;
};

class Aligned2416Layouts : public ::testing::TestWithParam<Shaped> {
 protected:
  Contents contents_{GetParam().out, GetParam().in, GetParam().wide_every, GetParam().outlier_every};
};

TEST_P(Aligned2416Layouts, WeightsDecodeByTheFormula) {
  const auto& [shape, parts] = contents_;
  const auto layer = contents_.layer();
  MatrixBuffer<float> expected(shape.out, shape.in);
  for (int64_t row = 0; row < shape.out; ++row)
    for (int64_t i = 0; i < shape.in; ++i) {
      const int64_t g = i / 16;
      const float scale =
          shape.wide[static_cast<size_t>(g)]
              ? from_half(parts.wide_scales.row(row)[g])
              : from_half(parts.second_scales.row(row / 16)[g]) *
                    static_cast<float>(parts.scale_codes.row(row)[g] + parts.second_zeros.row(row / 16)[g]);
      expected.row(row)[i] = scale * static_cast<float>(parts.codes.row(row)[i] - parts.zeros.row(row)[g]);
    }
  for (const Outlier& outlier : parts.outliers)
    expected.row(outlier.row)[outlier.column] = from_half(outlier.value);
  const MatrixBuffer<float> w = layer->dequantize();
  for (int64_t i = 0; i < w.size(); ++i) ASSERT_EQ(w.data()[i], expected.data()[i]) << i;
  const int64_t begin = shape.out / 3;
  MatrixBuffer<float> rows(shape.out - begin, shape.in);
  layer->dequantize_rows(std::vector<Level>(static_cast<size_t>(shape.in), 4), begin, shape.out, rows);
  EXPECT_TRUE(std::equal(rows.data(), rows.data() + rows.size(), w.row(begin)));
}

TEST_P(Aligned2416Layouts, RebuildsIdentically) {
  const auto layer = contents_.layer();
  const Buffers saved = copy_buffers(*layer);
  const Json attributes = Json::parse(layer->attributes().dump());
  const auto rebuilt = layouts().at("aligned_2_4_16").rebuild(saved, attributes);
  EXPECT_EQ(copy_buffers(*rebuilt), saved);
  EXPECT_EQ(rebuilt->attributes(), attributes);
  EXPECT_EQ(testing::relative_error(rebuilt->dequantize(), layer->dequantize()), 0.0);
}

TEST_P(Aligned2416Layouts, BuffersThatDoNotFitAreRefused) {
  const auto layer = contents_.layer();
  const Buffers whole = copy_buffers(*layer);
  for (const auto& [name, bytes] : whole) {
    Buffers saved = whole;
    saved[name].push_back(std::byte{0});
    EXPECT_REFUSED(layouts().at("aligned_2_4_16").rebuild(saved, layer->attributes()), "aligned_2_4_16 layer",
                   "'" + name + "'", fmt::format("{} bytes", bytes.size()));
    saved.erase(name);
    EXPECT_REFUSED(layouts().at("aligned_2_4_16").rebuild(saved, layer->attributes()), "aligned_2_4_16 layer",
                   "'" + name + "'");
  }
}

TEST(Aligned2416Layout, RefusesOutliersAndMarksThatDoNotFit) {
  const auto layer = Contents(20, 40, 2, 9).layer();
  Buffers saved = copy_buffers(*layer);
  saved.at("outlier_columns")[0] = std::byte{40};
  EXPECT_REFUSED(layouts().at("aligned_2_4_16").rebuild(saved, layer->attributes()), "outliers",
                 "20 rows and 40 columns");
  saved = copy_buffers(*layer);
  saved.at("outlier_counts")[0] = std::byte{200};
  EXPECT_REFUSED(layouts().at("aligned_2_4_16").rebuild(saved, layer->attributes()), "outliers");
  saved = copy_buffers(*layer);
  saved.at("wide")[0] = std::byte{0b111};
  EXPECT_REFUSED(layouts().at("aligned_2_4_16").rebuild(saved, layer->attributes()), "'wide' marks 3 groups");
}

INSTANTIATE_TEST_SUITE_P(Shapes, Aligned2416Layouts,
                         ::testing::Values(Shaped{32, 256, 8, 200}, Shaped{37, 203, 5, 11},
                                           Shaped{1, 1, 0, 0}, Shaped{17, 5, 1, 0}, Shaped{16, 16, 0, 3},
                                           Shaped{50, 100, 1, 0}, Shaped{3, 90, 2, 1}),
                         [](const auto& each) {
                           return fmt::format("{}x{}_wide{}_outlier{}", each.param.out, each.param.in,
                                              each.param.wide_every, each.param.outlier_every);
                         });

}  // namespace
}  // namespace grinqh
