#include "core/half.h"
#include "gemv_checks.h"
#include "kernels/group_mixed/layout.h"

namespace grinqh {
namespace {

// Widths in turn.
std::unique_ptr<GroupMixedLinear> layer_of(int64_t out, int64_t in, int64_t group,
                                           const std::vector<uint8_t>& widths) {
  GroupMixedShape shape{out, in, group, {}};
  for (int64_t g = 0; g < shape.groups(); ++g)
    shape.widths.push_back(widths[static_cast<size_t>(g) % widths.size()]);
  GroupMixedParts parts(shape);
  Rng rng(static_cast<uint64_t>(out * 131 + in));
  for (int64_t row = 0; row < out; ++row)
    for (int64_t g = 0; g < shape.groups(); ++g) {
      const uint64_t codes = uint64_t{1} << shape.widths[static_cast<size_t>(g)];
      for (int64_t i = shape.begin_of(g); i < shape.end_of(g); ++i)
        parts.codes.row(row)[i] = static_cast<uint8_t>(rng.below(codes));
      parts.zeros.row(row)[g] = static_cast<uint8_t>(rng.below(codes));
      parts.scales.row(row)[g] = to_half(static_cast<float>(0.01 + 0.1 * rng.uniform()));
      parts.means.row(row)[g] = to_half(static_cast<float>(rng.uniform() - 0.5));
    }
  return std::make_unique<GroupMixedLinear>(shape, parts);
}

TEST(GroupMixedGemv, EveryShapeAndWidthAgainstTheDequantizedWeights) {
  int64_t tokens = 1;
  for (const auto& [out, in, group] : {std::array<int64_t, 3>{48, 1024, 128},
                                       {33, 300, 32},
                                       {7, 77, 10},
                                       {50, 2100, 300},
                                       {20, 600, 64},
                                       {1, 1, 1},
                                       {17, 2048, 256},
                                       {16, 129, 16}}) {
    SCOPED_TRACE(fmt::format("{} x {}, groups of {}, {} tokens", out, in, group, tokens));
    const auto layer = layer_of(out, in, group, {1, 2, 3, 4, 5, 6, 7, 8});
    testing::expect_products(*layer, testing::random_matrix(tokens, in, 5), {});
    tokens = tokens % 8 + 1;
  }
}

TEST(GroupMixedGemv, EveryWidthAlone) {
  for (uint8_t width = 1; width <= 8; ++width) {
    SCOPED_TRACE(int{width});
    testing::expect_products(*layer_of(35, 400, 128, {width}), testing::random_matrix(2, 400, 5), {});
  }
}

// All codes and inputs at their greatest: sums of a span come as close to 2^31 as they can.
TEST(GroupMixedGemv, SumsStayWithin32Bits) {
  for (uint8_t width = 1; width <= 8; ++width) {
    GroupMixedShape shape{3, 512, 512, {width}};
    GroupMixedParts parts(shape);
    for (int64_t row = 0; row < 3; ++row) {
      std::fill_n(parts.codes.row(row), 512, static_cast<uint8_t>((1 << width) - 1));
      parts.scales.row(row)[0] = to_half(0.5f);
      parts.zeros.row(row)[0] = 0;
      parts.means.row(row)[0] = 0;
    }
    const GroupMixedLinear layer(shape, parts);
    for (const float sign : {1.0f, -1.0f}) {
      MatrixBuffer<float> x(1, 512);
      std::fill_n(x.data(), 512, 3.0f * sign);
      testing::expect_products(layer, x, {});
    }
  }
}

TEST(GroupMixedGemv, BytesAreTheCodesAndParameters) {
  const auto layer = layer_of(64, 1024, 128, {2, 1, 4, 8});
  const auto gemv = gemv_kernels("group_mixed").at(0).make(*layer);
  const int64_t codes = 64 * 1024 / 4 * (2 + 1 + 4 + 8) / 8, groups = 64 * 8;
  EXPECT_EQ(gemv->bytes(), codes + 2 * groups + groups / 4 * 3 + 2 * groups / 4);
  EXPECT_EQ(gemv->bytes_read(LevelCounts::uniform(8, 1024)), gemv->bytes());
}

TEST(GroupMixedGemv, ZerosGiveZerosAndWhatIsNoNumberIsNotHidden) {
  testing::expect_no_number_is_hidden(*layer_of(21, 200, 64, {1, 3}), {});
}

}  // namespace
}  // namespace grinqh
