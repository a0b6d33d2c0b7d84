#include "core/half.h"
#include "gemv_checks.h"
#include "kernels/lut_planes/layout.h"

namespace grinqh {
namespace {

struct Case {
  int64_t out, in;
  std::vector<Level> levels;
  bool outliers;
};

// Tables in no order, codes and outliers drawn.
std::unique_ptr<LutPlanesLinear> layer_of(const Case& c) {
  const LutPlanesShape shape{c.out, c.in, c.levels};
  Rng rng(static_cast<uint64_t>(c.out * 131 + c.in));
  MatrixBuffer<uint8_t> codes(c.out, c.in);
  for (int64_t i = 0; i < codes.size(); ++i)
    codes.data()[i] = static_cast<uint8_t>(rng.below(uint64_t{1} << shape.planes()));
  std::vector<uint16_t> tables(static_cast<size_t>(shape.table_offset(kFullLevel)));
  for (uint16_t& entry : tables) entry = to_half(static_cast<float>(rng.uniform() - 0.4));
  MatrixBuffer<float> weight(c.out, c.in);
  for (int64_t i = 0; i < weight.size(); ++i) weight.data()[i] = static_cast<float>(4 * rng.uniform() - 2);
  Outliers outliers;
  if (c.outliers) {
    outliers.row_begin.push_back(0);
    for (int64_t row = 0; row < c.out; ++row) {
      for (int64_t i = 0; i < c.in; ++i)
        if (rng.below(20) == 0) outliers.columns.push_back(static_cast<uint32_t>(i));
      outliers.row_begin.push_back(static_cast<uint32_t>(outliers.columns.size()));
    }
  }
  return std::make_unique<LutPlanesLinear>("test", shape, codes, std::move(tables), outliers, weight);
}

TEST(LutPlanesGemv, EveryShapeAndLevelAgainstTheDequantizedWeights) {
  int64_t tokens = 1;
  for (const Case& c :
       {Case{48, 512, {2, 3, 4, 5, 6, 7, 8}, false}, Case{33, 2600, {3, 4, 5, 6, 7, 8}, true},
        Case{7, 77, {0, 2, 3, 4}, true}, Case{50, 530, {1, 2, 6}, false}, Case{20, 1000, {4}, true},
        Case{1, 1, {8}, false}, Case{19, 65, {1}, true}, Case{16, 2048, {0, 5, 7}, false}}) {
    SCOPED_TRACE(fmt::format("{} x {}, levels to {}, {} tokens", c.out, c.in, c.levels.back(), tokens));
    const auto layer = layer_of(c);
    const MatrixBuffer<float> x = testing::random_matrix(tokens, c.in, 5);
    for (const Level level : c.levels)
      if (level > 0) testing::expect_products(*layer, x, {level, {}});
    MatrixBuffer<Level> levels(tokens, c.in);
    Rng rng(11);
    for (int64_t i = 0; i < levels.size(); ++i) levels.data()[i] = c.levels[rng.below(c.levels.size())];
    testing::expect_products(*layer, x, {kFullLevel, levels.view()});
    tokens = tokens % 8 + 1;
  }
}

// All entries and inputs at their greatest: the integer sums come as close to 2^31 as they can.
TEST(LutPlanesGemv, SumsStayWithin32Bits) {
  const LutPlanesShape shape{3, 600, {2, 4, 8}};
  MatrixBuffer<uint8_t> codes(3, 600);
  std::fill_n(codes.data(), codes.size(), uint8_t{255});
  const std::vector<uint16_t> tables(static_cast<size_t>(shape.table_offset(kFullLevel)), to_half(-3.0f));
  const LutPlanesLinear layer("test", shape, codes, tables, {}, MatrixBuffer<float>(3, 600));
  for (const float sign : {1.0f, -1.0f}) {
    MatrixBuffer<float> x(1, 600);
    std::fill_n(x.data(), 600, 5.0f * sign);
    for (const Level level : shape.levels) testing::expect_products(layer, x, {level, {}});
  }
}

TEST(LutPlanesGemv, ReadsThePlanesOfTheLevel) {
  const auto layer = layer_of({64, 1024, {0, 2, 3, 8}, false});
  const auto gemv = gemv_kernels("lut_planes").at(0).make(*layer);
  const int64_t plane = 64 * 1024 / 8;
  const auto read = [&](Level level) { return gemv->bytes_read(LevelCounts::uniform(level, 1024)); };
  EXPECT_EQ(read(0), 0);
  for (const int level : {2, 3, 8}) {
    const int64_t tables = 64 * ((int64_t{2} << level) + 4);
    EXPECT_GE(read(static_cast<Level>(level)), level * plane + tables);
    EXPECT_LE(read(static_cast<Level>(level)), level * plane + tables + 64);
  }
  EXPECT_GE(gemv->bytes(), read(8) + 64 * 2 * (4 + 8));
}

TEST(LutPlanesGemv, ZerosGiveZerosAndWhatIsNoNumberIsNotHidden) {
  testing::expect_no_number_is_hidden(*layer_of({50, 600, {2, 3}, true}), {2, {}});
}

}  // namespace
}  // namespace grinqh
