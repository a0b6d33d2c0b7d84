#include "core/half.h"
#include "gemv_checks.h"
#include "kernels/group_affine/layout.h"
#include "quant/channel_grading.h"

namespace grinqh {
namespace {

enum class Kind { integer_zeros, symmetric, real_zeros };

std::unique_ptr<GroupAffineLinear> layer_of(int64_t out, int64_t in, int64_t group,
                                            Kind kind = Kind::integer_zeros, bool with_columns = false) {
  GroupAffineShape shape{out, in, 8, group};
  shape.symmetric = kind == Kind::symmetric;
  shape.real_zeros = kind == Kind::real_zeros;
  shape.column_scales = with_columns;
  Rng rng(static_cast<uint64_t>(out * 131 + in));
  MatrixBuffer<uint8_t> codes(out, in), zeros(out, shape.groups());
  MatrixBuffer<uint16_t> scales(out, shape.groups()), real_zeros(out, shape.groups());
  for (int64_t i = 0; i < codes.size(); ++i) codes.data()[i] = static_cast<uint8_t>(rng.below(256));
  for (int64_t i = 0; i < scales.size(); ++i) {
    zeros.data()[i] = static_cast<uint8_t>(rng.below(256));
    scales.data()[i] = to_half(static_cast<float>(0.01 + 0.1 * rng.uniform()));
    real_zeros.data()[i] = to_half(static_cast<float>(rng.uniform() * 256));
  }
  std::vector<uint16_t> columns;
  for (int64_t i = 0; i < (with_columns ? in : 0); ++i)
    columns.push_back(to_half(static_cast<float>(0.5 + rng.uniform())));
  if (shape.real_zeros)
    return std::make_unique<GroupAffineLinear>(shape, codes, scales, real_zeros.view(), columns);
  return std::make_unique<GroupAffineLinear>(shape, codes, scales, zeros.view(), columns);
}

// `share` of 8 channels are read.
MatrixBuffer<Level> drawn_levels(int64_t tokens, int64_t in, uint64_t share) {
  MatrixBuffer<Level> levels(tokens, in);
  Rng rng(11);
  for (int64_t i = 0; i < levels.size(); ++i) levels.data()[i] = rng.below(8) < share ? 8 : 0;
  return levels;
}

// The kernel that leaves channels out.
std::unique_ptr<Gemv> gemv_of(const QuantizedLinear& layer) {
  auto gemvs = testing::gemvs_of(layer, true);
  check(gemvs.size() == 1, "one kernel grades");
  return std::move(gemvs.front());
}

struct Case {
  int64_t out, in, group;
  Kind kind;
  bool columns;
  int64_t tokens;
};

class GroupAffineChannels : public ::testing::TestWithParam<Case> {};

TEST_P(GroupAffineChannels, AnyShareOfThemAgainstTheDequantizedWeights) {
  const Case& c = GetParam();
  const auto layer = layer_of(c.out, c.in, c.group, c.kind, c.columns);
  const MatrixBuffer<float> x = testing::random_matrix(c.tokens, c.in, 5);
  for (const uint64_t share : {1, 2, 4, 7, 8}) {
    SCOPED_TRACE(share);
    testing::expect_products(*layer, x, {kFullLevel, drawn_levels(c.tokens, c.in, share).view()});
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, GroupAffineChannels,
                         ::testing::Values(Case{96, 256, 128, Kind::integer_zeros, false, 1},
                                           Case{1100, 300, 128, Kind::integer_zeros, false, 2},
                                           Case{7, 77, 10, Kind::real_zeros, true, 3},
                                           Case{1025, 170, 32, Kind::symmetric, false, 4},
                                           Case{20, 600, 0, Kind::integer_zeros, true, 8},
                                           Case{70, 530, 0, Kind::real_zeros, false, 5},
                                           Case{64, 512, 64, Kind::symmetric, true, 6},
                                           Case{2100, 65, 1, Kind::integer_zeros, false, 1},
                                           Case{1, 1, 1, Kind::integer_zeros, false, 7}),
                         [](const auto& each) {
                           return fmt::format("{}x{}_group{}_{}tokens", each.param.out, each.param.in,
                                              each.param.group, each.param.tokens);
                         });

// What a product of a layer needs whose channels are graded must not come from a kernel that reads all.
TEST(GroupAffineGrading, LayersOfEightBitsHaveAKernelOfEitherKind) {
  const auto layer = layer_of(70, 300, 64);
  LevelCounts counts;
  counts.channels[0] = 300;
  const auto whole = make_gemv(*layer, false), graded = make_gemv(*layer, true);
  EXPECT_EQ(whole->bytes_read(counts), whole->bytes());
  EXPECT_LT(graded->bytes_read(counts), graded->bytes());

  const MatrixBuffer<float> x = testing::random_matrix(2, 300, 5);
  const MatrixBuffer<Level> levels = drawn_levels(2, 300, 4);
  EXPECT_THROW(testing::run(*whole, x, {kFullLevel, levels.view()}), std::logic_error);
}

TEST(GroupAffineGrading, ChannelsThatAreLeftOutAreNotSeen) {
  testing::expect_left_out_channels_unseen(*gemv_of(*layer_of(70, 300, 64)), 8);
}

TEST(GroupAffineGrading, ANumberThatIsNoneIsReadAboveAnyThreshold) {
  const auto layer = layer_of(33, 96, 32);
  ChannelGrading grading;
  grading.levels = {0, 8};
  grading.thresholds = MatrixBuffer<float>(1, 1);
  *grading.thresholds.data() = 1.0f;
  MatrixBuffer<float> x = MatrixBuffer<float>::zeroed(1, 96);
  x.row(0)[40] = std::nanf("");
  MatrixBuffer<Level> levels(1, 96);
  const Step step{Phase::decode};
  grade_channels(grading, {&step, 1}, x, levels);
  EXPECT_EQ(std::count(levels.data(), levels.data() + 96, Level{8}), 1);
  const MatrixBuffer<float> y = testing::run(*gemv_of(*layer), x, {kFullLevel, levels.view()});
  for (int64_t n = 0; n < 33; ++n) EXPECT_TRUE(std::isnan(y.row(0)[n]));
}

TEST(GroupAffineGrading, BytesReadAreTheChannelsAndAllParameters) {
  const auto layer = layer_of(1024 + 64, 300, 64, Kind::integer_zeros, false);
  const auto gemv = gemv_of(*layer);
  LevelCounts counts;
  counts.channels[0] = 200, counts.channels[8] = 100;
  EXPECT_EQ(gemv->bytes_read(counts) * 8, layer->read_bits(counts).total());
  EXPECT_EQ(gemv->bytes() * 8, layer->stored_bits().total());
}

TEST(GroupAffineGrading, OtherWidthsAreNotTaken) {
  GroupAffineShape shape{2, 8, 4, 8};
  const MatrixBuffer<uint8_t> codes = MatrixBuffer<uint8_t>::zeroed(2, 8),
                              zeros(MatrixBuffer<uint8_t>::zeroed(2, 1));
  const MatrixBuffer<uint16_t> scales = MatrixBuffer<uint16_t>::zeroed(2, 1);
  EXPECT_TRUE(testing::gemvs_of(GroupAffineLinear(shape, codes, scales, zeros.view()), true).empty());
}

}  // namespace
}  // namespace grinqh
