// The order of the decoding kernel, read as gemv_order.h describes it.
#include "kernels/aligned_2_4_16/gemv_units.h"

#include <gtest/gtest.h>

#include <cstring>

#include "core/half.h"
#include "core/rng.h"
#include "kernels/aligned_2_4_16/layout.h"

namespace grinqh {
namespace {

using Order = Aligned2416Order;

// uneven: all outliers are in the first 16 outputs, so that these are longer than the others.
std::unique_ptr<Aligned2416Linear> random_layer(int64_t out, int64_t in, double outliers, bool uneven) {
  Aligned2416Shape shape{out, in, {}};
  for (int64_t g = 0; g < shape.groups(); ++g) shape.wide.push_back(g % 5 == 2);
  Aligned2416Parts parts(shape);
  Rng rng(3);
  const std::vector<int64_t> places = shape.places();
  for (int64_t g = 0; g < shape.groups(); ++g) {
    const uint64_t top = shape.wide[static_cast<size_t>(g)] ? 16 : 4,
                   scales = uint64_t{1} << Aligned2416Shape::scale_bits(places[static_cast<size_t>(g)]);
    for (int64_t row = 0; row < out; ++row) {
      for (int64_t i = 16 * g; i < 16 * g + shape.width_of(g); ++i)
        parts.codes.row(row)[i] = static_cast<uint8_t>(rng.below(top));
      parts.zeros.row(row)[g] = static_cast<uint8_t>(rng.below(top));
      parts.wide_scales.row(row)[g] = to_half(static_cast<float>(rng.uniform()));
      parts.scale_codes.row(row)[g] = static_cast<uint8_t>(rng.below(scales));
    }
    for (int64_t block = 0; block < shape.row_blocks(); ++block) {
      parts.second_scales.row(block)[g] = to_half(static_cast<float>(rng.uniform()));
      parts.second_zeros.row(block)[g] = static_cast<uint8_t>(rng.below(scales));
    }
  }
  for (int64_t row = 0; row < (uneven ? 16 : out); ++row)
    for (int64_t i = 0; i < in; ++i)
      if (!shape.wide[static_cast<size_t>(i / 16)] && rng.uniform() < outliers)
        parts.outliers.push_back({row, i, to_half(static_cast<float>(rng.normal()))});
  return std::make_unique<Aligned2416Linear>(std::move(shape), parts);
}

uint16_t value16(const uint8_t* at) {
  uint16_t value;
  std::memcpy(&value, at, 2);
  return value;
}

// Output `row` of 16, slot `slot` of a dense unit, input i of its group.
float dense_weight(const uint8_t* unit, bool wide, int row, int slot, int i) {
  const int steps = wide ? 2 : 4, bits = wide ? 4 : 2, q = slot / steps, j = slot % steps;
  const int lane = row % 8 * 4, r = row / 8;
  const uint8_t* word = unit + 512 * (q / 2) + 16 * (lane + i / 4) + 4 * (2 * (q % 2) + r);
  const int mask = (1 << bits) - 1, code = word[i % 4] >> (bits * j) & mask;
  const int zero = unit[1024 + (lane + q) * 2 + r] >> (bits * j) & mask;
  if (wide) return from_half(value16(unit + 1088 + ((lane + q) * 2 + j) * 4 + r * 2)) * float(code - zero);
  const int scale = value16(unit + 1088 + (lane + q) * 4 + r * 2) >> (4 * j) & 15;
  const int second_zero = value16(unit + 1248 + q * 2) >> (4 * j) & 15;
  return from_half(value16(unit + 1216 + (q * 4 + j) * 2)) * float(scale + second_zero) * float(code - zero);
}

void add_part(const Aligned2416Units& part, MatrixBuffer<float>& w) {
  const Order& order = part.order;
  for (size_t block = 0; block + 1 < part.begins.size(); ++block) {
    const auto &begin = part.begins[block], &end = part.begins[block + 1];
    const uint8_t* from = part.units.data() + size_t{Order::kAlignment} * begin.runs;
    const int64_t first_row = static_cast<int64_t>(block) * 16;
    for (int slot = 0; slot < order.slots(); ++slot) {
      const bool wide = slot >= order.narrow_slots();
      const int of_kind = wide ? slot - order.narrow_slots() : slot, of_unit = wide ? 8 : 16;
      const uint8_t* unit = from + order.begin_of((wide ? order.narrow_units : 0) + of_kind / of_unit);
      const int64_t g = part.groups[static_cast<size_t>(slot)];
      for (int64_t row = first_row; g >= 0 && row < std::min<int64_t>(first_row + 16, w.rows()); ++row)
        for (int64_t i = 16 * g; i < std::min<int64_t>(16 * g + 16, w.cols()); ++i)
          w.row(row)[i] += dense_weight(unit, wide, static_cast<int>(row - first_row), of_kind % of_unit,
                                        static_cast<int>(i % 16));
    }
    const auto count = static_cast<int>(end.unit - begin.unit) - order.dense_units();
    const auto bytes = static_cast<int>(end.runs - begin.runs) * Order::kAlignment - order.dense_bytes();
    for (int n = 0; n < count; ++n) {
      const uint8_t* unit = from + order.dense_bytes() + n * (bytes / count);
      ASSERT_LE(bytes / count, Order::kWideBytes);
      for (int row = 0, at = 0; row < 16; ++row)
        for (; at < value16(unit + row * 2); ++at) {
          const int index = value16(unit + 32 + at * 4);
          const int slot = index / 64 * 4 + index / 4 % 4, input = index / 16 % 4 * 4 + index % 4;
          w.row(first_row + row)[part.groups[static_cast<size_t>(slot)] * 16 + input] +=
              from_half(value16(unit + 32 + at * 4 + 2));
        }
    }
  }
}

TEST(Aligned2416Units, PartsTogetherAreTheLayer) {
  for (const int parts : {1, 2})
    for (const bool uneven : {false, true}) {
      const auto layer = random_layer(37, 1100, 0.1, uneven);
      const MatrixBuffer<float> expected = layer->dequantize();
      MatrixBuffer<float> w = MatrixBuffer<float>::zeroed(37, 1100);
      for (int part = 0; part < parts; ++part) add_part(Aligned2416Units(*layer, part, parts), w);
      for (int64_t i = 0; i < w.size(); ++i) ASSERT_EQ(w.data()[i], expected.data()[i]) << i;
    }
}

// An eighth of the groups wide, half a percent of outliers: 16 outputs are as long as the next ones.
TEST(Aligned2416Units, BlocksAreAlikeWhereOutliersAreSpreadEvenly) {
  EXPECT_TRUE(Aligned2416Units(*random_layer(64, 2048, 0.005, false), 0, 1).even);
  EXPECT_FALSE(Aligned2416Units(*random_layer(64, 2048, 0.5, true), 0, 1).even);
}

}  // namespace
}  // namespace grinqh
