#include "core/half.h"
#include "gemv_checks.h"
#include "kernels/aligned_2_4_16/layout.h"

namespace grinqh {
namespace {

// Every `wide_every`-th group is wide; an outlier every so many narrow weights.
std::unique_ptr<Aligned2416Linear> layer_of(int64_t out, int64_t in, int64_t wide_every,
                                            int64_t outlier_every) {
  Aligned2416Shape shape{out, in, {}};
  for (int64_t g = 0; g < shape.groups(); ++g)
    shape.wide.push_back(wide_every > 0 && g % wide_every == wide_every - 1);
  Aligned2416Parts parts(shape);
  const std::vector<int64_t> places = shape.places();
  Rng rng(static_cast<uint64_t>(out * 131 + in));
  for (int64_t g = 0; g < shape.groups(); ++g) {
    const uint64_t codes = shape.wide[static_cast<size_t>(g)] ? 16 : 4;
    const auto scale_codes = uint64_t{1} << Aligned2416Shape::scale_bits(places[static_cast<size_t>(g)]);
    for (int64_t row = 0; row < out; ++row) {
      for (int64_t i = 16 * g; i < 16 * g + shape.width_of(g); ++i)
        parts.codes.row(row)[i] = static_cast<uint8_t>(rng.below(codes));
      parts.zeros.row(row)[g] = static_cast<uint8_t>(rng.below(codes));
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
      if (!shape.wide[static_cast<size_t>(i / 16)] && outlier_every > 0 && ++narrow % outlier_every == 0)
        parts.outliers.push_back({row, i, to_half(static_cast<float>(20 * rng.uniform() - 10))});
  return std::make_unique<Aligned2416Linear>(shape, parts);
}

TEST(Aligned2416Gemv, EveryShapeAndShareAgainstTheDequantizedWeights) {
  int64_t tokens = 1;
  for (const auto& [out, in, wide_every, outlier_every] : {std::array<int64_t, 4>{48, 512, 8, 200},
                                                           {33, 300, 2, 7},
                                                           {7, 77, 3, 0},
                                                           {50, 530, 0, 50},
                                                           {20, 600, 1, 0},
                                                           {1, 1, 0, 1},
                                                           {17, 2100, 5, 33},
                                                           {16, 129, 4, 10}}) {
    SCOPED_TRACE(fmt::format("{} x {}, one of {} wide, one outlier of {}, {} tokens", out, in, wide_every,
                             outlier_every, tokens));
    const auto layer = layer_of(out, in, wide_every, outlier_every);
    testing::expect_products(*layer, testing::random_matrix(tokens, in, 5), {});
    tokens = tokens % 8 + 1;
  }
}

TEST(Aligned2416Gemv, InputsOfAllSizesKeepTheirPrecision) {
  const auto layer = layer_of(40, 640, 4, 20);
  MatrixBuffer<float> x = testing::random_matrix(1, 640, 5);
  for (int64_t i = 0; i < 640; ++i) x.data()[i] *= std::ldexp(1.0f, static_cast<int>(i / 128 * 9 - 20));
  testing::expect_products(*layer, x, {});
}

TEST(Aligned2416Gemv, BytesAreNearThoseOfTheLayer) {
  const auto layer = layer_of(64, 2048, 8, 200);
  const auto gemv = gemv_kernels("aligned_2_4_16").at(0).make(*layer);
  EXPECT_EQ(gemv->bytes_read(LevelCounts::uniform(4, 2048)), gemv->bytes());
  const auto stored = static_cast<double>(layer->stored_bits().total()) / 8;
  EXPECT_GT(static_cast<double>(gemv->bytes()), stored);
  EXPECT_LT(static_cast<double>(gemv->bytes()), 1.15 * stored);
}

TEST(Aligned2416Gemv, ZerosGiveZerosAndWhatIsNoNumberIsNotHidden) {
  testing::expect_no_number_is_hidden(*layer_of(21, 200, 4, 30), {});
}

}  // namespace
}  // namespace grinqh
