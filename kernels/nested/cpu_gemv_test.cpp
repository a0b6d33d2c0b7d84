#include "core/half.h"
#include "gemv_checks.h"
#include "kernels/nested/layout.h"

namespace grinqh {
namespace {

struct Case {
  int64_t out, in, group;
  GroupAxis axis;
  std::vector<Level> levels;
  int table_levels;
};

std::unique_ptr<NestedLinear> layer_of(const Case& c) {
  NestedShape shape;
  shape.out = c.out;
  shape.in = c.in;
  shape.group = c.group;
  shape.axis = c.axis;
  shape.levels = c.levels;
  shape.table_levels = std::min<int>(c.table_levels, c.levels.back());
  Rng rng(static_cast<uint64_t>(c.out * 131 + c.in));
  MatrixBuffer<uint8_t> codes(c.out, c.in);
  for (int64_t i = 0; i < codes.size(); ++i) codes.data()[i] = static_cast<uint8_t>(rng.below(256));
  std::vector<uint16_t> scales, minima, table;
  for (int64_t p = 0; p < shape.parameters(); ++p) {
    const double scale = 0.5 + rng.uniform();
    scales.push_back(to_half(static_cast<float>(scale)));
    minima.push_back(to_half(static_cast<float>(-scale * (100 + 56 * rng.uniform()))));
  }
  for (int level = 1; level <= shape.table_levels; ++level)
    for (int t = 0; t < 1 << level; ++t)
      table.push_back(to_half(static_cast<float>((t + rng.uniform()) * (256 >> level))));
  return std::make_unique<NestedLinear>(shape, codes, scales, minima, table);
}

MatrixBuffer<Level> drawn_levels(int64_t tokens, int64_t in, const std::vector<Level>& stored) {
  MatrixBuffer<Level> levels(tokens, in);
  Rng rng(11);
  for (int64_t i = 0; i < levels.size(); ++i) levels.data()[i] = stored[rng.below(stored.size())];
  return levels;
}

TEST(NestedGemv, EveryShapeAxisAndLevelAgainstTheDequantizedWeights) {
  constexpr GroupAxis kIn = GroupAxis::input, kOut = GroupAxis::output;
  const std::vector<Level> usual{0, 2, 4, 8}, all{0, 1, 2, 3, 4, 5, 6, 7, 8};
  int64_t tokens = 1;
  for (const Case& c : {Case{640, 300, 128, kOut, usual, 0}, Case{520, 70, 128, kOut, usual, 4},
                        Case{67, 531, 48, kOut, all, 0}, Case{600, 65, 100, kOut, {0, 1, 3, 8}, 6},
                        Case{530, 130, 0, kOut, {2, 5, 6}, 0}, Case{40, 600, 128, kIn, usual, 4},
                        Case{523, 290, 48, kIn, all, 6}, Case{33, 530, 0, kIn, {3}, 0},
                        Case{1, 1, 0, kOut, {8}, 0}, Case{90, 31, 1, kOut, {0, 4, 7}, 3}}) {
    SCOPED_TRACE(fmt::format("{} x {}, group {} along {}, levels to {}", c.out, c.in, c.group,
                             c.axis == kIn ? "inputs" : "outputs", c.levels.back()));
    const auto layer = layer_of(c);
    const MatrixBuffer<float> x = testing::random_matrix(tokens, c.in, 5);
    const MatrixBuffer<Level> levels = drawn_levels(tokens, c.in, c.levels);
    testing::expect_products(*layer, x, {kFullLevel, levels.view()});
    testing::expect_products(*layer, x, {});
    for (const Level level : c.levels)
      if (level > 0) testing::expect_products(*layer, x.view().rows_between(0, 1), {level, {}});
    tokens = tokens % 8 + 1;
  }
}

TEST(NestedGemv, ATokenThatReadsNothingGetsZeros) {
  const auto layer = layer_of({70, 300, 128, GroupAxis::output, {0, 2, 4, 8}, 4});
  const MatrixBuffer<float> x = testing::random_matrix(1, 300, 5);
  for (const GemvKernel& kernel : gemv_kernels("nested")) {
    const auto y = testing::run(*kernel.make(*layer), x, {0, {}});
    EXPECT_EQ(std::count(y.data(), y.data() + y.size(), 0.0f), y.size());
  }
}

// All codes and inputs at their greatest: sums come as close to 2^31 as they can.
TEST(NestedGemv, SumsStayWithin32Bits) {
  for (const int table_levels : {0, 4}) {
    NestedShape shape;
    shape.out = 20;
    shape.in = 600;
    shape.levels = {1, 2, 4, 8};
    shape.table_levels = table_levels;
    MatrixBuffer<uint8_t> codes(20, 600);
    std::fill_n(codes.data(), codes.size(), uint8_t{255});
    const std::vector<uint16_t> scales(static_cast<size_t>(shape.parameters()), to_half(0.5f)),
        minima(scales.size(), to_half(0.0f)),
        table(static_cast<size_t>(NestedShape::table_offset(table_levels + 1)), to_half(256.0f));
    const NestedLinear layer(shape, codes, scales, minima, table);
    MatrixBuffer<float> x(1, 600);
    std::fill_n(x.data(), 600, 3.0f);
    for (const Level level : shape.levels) testing::expect_products(layer, x, {level, {}});
    testing::expect_products(layer, x, {kFullLevel, drawn_levels(1, 600, shape.levels).view()});
  }
}

TEST(NestedGemv, BytesReadAreThePlanesOfTheLevels) {
  const auto layer = layer_of({512, 300, 128, GroupAxis::output, {0, 2, 4, 8}, 0});
  const auto gemv = gemv_kernels("nested").at(0).make(*layer);
  LevelCounts counts;
  counts.channels[0] = 100, counts.channels[2] = 150, counts.channels[8] = 50;
  EXPECT_EQ(gemv->bytes_read(counts), (150 * 2 + 50 * 8) * 512 / 8 + 4 * 300 * 2 * 2);
  EXPECT_EQ(gemv->bytes_read(LevelCounts::uniform(8, 300)) * 8, layer->stored_bits().total());
}

TEST(NestedGemvInputs, WhatIsNoNumberIsNotHidden) {
  const auto layer = layer_of({50, 300, 128, GroupAxis::output, {0, 2, 4, 8}, 4});
  MatrixBuffer<float> x = testing::random_matrix(2, 300, 5);
  x.row(0)[70] = std::nanf("");
  x.row(1)[299] = HUGE_VALF;
  const auto gemv = gemv_kernels("nested").at(0).make(*layer);
  testing::with_every_instruction_set([&] {
    const MatrixBuffer<float> y = testing::run(*gemv, x, {2, {}});
    for (int64_t i = 0; i < y.size(); ++i) EXPECT_FALSE(std::isfinite(y.data()[i]));
  });
}

}  // namespace
}  // namespace grinqh
