#include "core/half.h"
#include "gemv_checks.h"
#include "kernels/group_affine/layout.h"

namespace grinqh {
namespace {

enum class Kind { integer_zeros, symmetric, real_zeros };

struct Case {
  int64_t out, in, group;
  Kind kind;
  bool columns;
  int64_t tokens;
};

std::unique_ptr<GroupAffineLinear> layer_of(const Case& c, int bits) {
  GroupAffineShape shape{c.out, c.in, bits, c.group};
  shape.symmetric = c.kind == Kind::symmetric;
  shape.real_zeros = c.kind == Kind::real_zeros;
  shape.column_scales = c.columns;
  Rng rng(static_cast<uint64_t>(c.out * 131 + c.in + bits));
  const auto code = [&] { return static_cast<uint8_t>(rng.below(uint64_t{1} << bits)); };
  MatrixBuffer<uint8_t> codes(c.out, c.in), zeros(c.out, shape.groups());
  MatrixBuffer<uint16_t> scales(c.out, shape.groups()), real_zeros(c.out, shape.groups());
  for (int64_t i = 0; i < codes.size(); ++i) codes.data()[i] = code();
  for (int64_t i = 0; i < scales.size(); ++i) {
    zeros.data()[i] = code();
    scales.data()[i] = to_half(static_cast<float>(0.01 + 0.1 * rng.uniform()));
    real_zeros.data()[i] = to_half(static_cast<float>(rng.uniform() * (1 << bits)));
  }
  std::vector<uint16_t> columns;
  for (int64_t i = 0; i < (c.columns ? c.in : 0); ++i)
    columns.push_back(to_half(static_cast<float>(0.5 + rng.uniform())));
  if (shape.real_zeros)
    return std::make_unique<GroupAffineLinear>(shape, codes, scales, real_zeros.view(), columns);
  return std::make_unique<GroupAffineLinear>(shape, codes, scales, zeros.view(), columns);
}

class GroupAffineGemv : public ::testing::TestWithParam<int> {};

TEST_P(GroupAffineGemv, EveryShapeAndOptionAgainstTheDequantizedWeights) {
  for (const Case& c :
       {Case{96, 256, 128, Kind::integer_zeros, false, 1}, Case{33, 300, 128, Kind::integer_zeros, false, 2},
        Case{7, 77, 10, Kind::real_zeros, true, 3}, Case{50, 170, 32, Kind::symmetric, false, 4},
        Case{20, 600, 0, Kind::integer_zeros, true, 8}, Case{41, 530, 0, Kind::real_zeros, false, 5},
        Case{40, 512, 64, Kind::symmetric, true, 6}, Case{1, 1, 1, Kind::integer_zeros, false, 7}}) {
    SCOPED_TRACE(fmt::format("{} x {}, group {}, kind {}, {} tokens", c.out, c.in, c.group,
                             static_cast<int>(c.kind), c.tokens));
    const auto layer = layer_of(c, GetParam());
    testing::expect_products(*layer, testing::random_matrix(c.tokens, c.in, 5).view(), {});
  }
}

// All codes and inputs at their greatest: the sums of a span come as close to 2^31 as they can.
TEST_P(GroupAffineGemv, SumsStayWithin32Bits) {
  const int64_t in = 512;
  GroupAffineShape shape{3, in, GetParam(), 0};
  MatrixBuffer<uint8_t> codes(3, in), zeros = MatrixBuffer<uint8_t>::zeroed(3, 1);
  std::fill_n(codes.data(), codes.size(), static_cast<uint8_t>((1 << shape.bits) - 1));
  MatrixBuffer<uint16_t> scales(3, 1);
  std::fill_n(scales.data(), 3, to_half(0.5f));
  const GroupAffineLinear layer(shape, codes, scales, zeros.view());
  for (const float sign : {1.0f, -1.0f}) {
    MatrixBuffer<float> x(1, in);
    std::fill_n(x.data(), in, 3.0f * sign);
    testing::expect_products(layer, x, {});
  }
}

TEST_P(GroupAffineGemv, BytesAreTheCodesAndParameters) {
  const auto layer = layer_of({64, 512, 128, Kind::symmetric, false, 1}, GetParam());
  for (const auto& gemv : testing::gemvs_of(*layer)) {
    EXPECT_EQ(gemv->bytes() * 8, layer->stored_bits().total());
    EXPECT_EQ(gemv->bytes_read(LevelCounts::uniform(layer->full_level(), 512)), gemv->bytes());
  }
}

INSTANTIATE_TEST_SUITE_P(Bits, GroupAffineGemv, ::testing::Range(2, 9));

TEST(GroupAffineGemvInputs, ZerosGiveZerosAndWhatIsNoNumberIsNotHidden) {
  const auto layer = layer_of({5, 200, 64, Kind::integer_zeros, false, 2}, 4);
  for (const auto& gemv : testing::gemvs_of(*layer)) {
    auto x = MatrixBuffer<float>::zeroed(3, 200);
    x.row(1)[70] = std::nanf("");
    x.row(2)[198] = x.row(2)[199] = -HUGE_VALF;
    testing::with_every_instruction_set([&] {
      const MatrixBuffer<float> y = testing::run(*gemv, x, {});
      for (int64_t n = 0; n < 5; ++n) {
        EXPECT_EQ(y.row(0)[n], 0.0f);
        EXPECT_FALSE(std::isfinite(y.row(1)[n]));
        EXPECT_FALSE(std::isfinite(y.row(2)[n]));
      }
    });
  }
}

}  // namespace
}  // namespace grinqh
