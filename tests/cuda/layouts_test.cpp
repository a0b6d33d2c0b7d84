// Every layout's weights as the device decodes them, against dequantize_rows: the same bits.
#include <gtest/gtest.h>

#include <bit>
#include <cstring>

#include "core/dtype.h"
#include "core/error.h"
#include "cuda/device_weights.h"
#include "cuda/memory.h"
#include "gpu.h"
#include "kernels/aligned_2_4_16/layout.h"
#include "kernels/dense/layout.h"
#include "kernels/group_affine/layout.h"
#include "kernels/group_mixed/layout.h"
#include "kernels/lut_planes/layout.h"
#include "kernels/nested/layout.h"
#include "numbers.h"

namespace grinqh {
namespace {

using LayerPtr = std::unique_ptr<QuantizedLinear>;

constexpr uint8_t kPoison = 0xcd;

// The bytes of a view whose rows are `stride` elements apart, poisoned before the device wrote to it.
std::vector<uint8_t> decode(const cuda::DeviceWeights& weights, Level level, Level minus, int64_t out,
                            int64_t in, int64_t stride, cuda::Type type) {
  std::vector<uint8_t> host(static_cast<size_t>(out * stride * cuda::size_of(type)), kPoison);
  const auto bytes = static_cast<int64_t>(host.size());
  const cuda::Bytes device(bytes);
  cuda::to_device(host.data(), device.data(), bytes, nullptr);
  weights.dequantize(level, minus, {device.data(), out, in, stride, type}, nullptr);
  cuda::to_host(device.data(), host.data(), bytes, nullptr);
  return host;
}

template <class T>
T element(const std::vector<uint8_t>& bytes, int64_t index) {
  T value;
  std::memcpy(&value, bytes.data() + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

uint16_t bf16_bits(float value) {
  return static_cast<uint16_t>(std::bit_cast<uint32_t>(rounded_to(DType::bf16, value)) >> 16);
}

// D_level - D_minus by the CPU.
MatrixBuffer<float> difference(const QuantizedLinear& layer, Level level, Level minus) {
  if (level == 0) return MatrixBuffer<float>::zeroed(layer.out(), layer.in());
  MatrixBuffer<float> result = layer.dequantize(level);
  if (minus == 0) return result;
  const MatrixBuffer<float> less = layer.dequantize(minus);
  for (int64_t i = 0; i < result.size(); ++i) result.data()[i] -= less.data()[i];
  return result;
}

void expect_same(const cuda::DeviceWeights& weights, Matrix<const float> expected, Level level, Level minus,
                 int64_t stride) {
  const int64_t out = expected.rows, in = expected.cols;
  const std::vector<uint8_t> floats = decode(weights, level, minus, out, in, stride, cuda::Type::f32);
  const std::vector<uint8_t> halves = decode(weights, level, minus, out, in, stride, cuda::Type::bf16);
  for (int64_t row = 0; row < out; ++row)
    for (int64_t i = 0; i < stride; ++i) {
      const int64_t at = row * stride + i;
      const auto full = element<uint32_t>(floats, at);
      const auto half = element<uint16_t>(halves, at);
      if (i < in) {
        const float value = expected(row, i);
        ASSERT_EQ(full, std::bit_cast<uint32_t>(value))
            << int{level} << " - " << int{minus} << " at " << row << ", " << i << ": " << value << " but "
            << std::bit_cast<float>(full);
        ASSERT_EQ(half, bf16_bits(value)) << int{level} << " - " << int{minus} << " at " << row << ", " << i;
      } else {
        ASSERT_EQ(full, 0xcdcdcdcdu) << "beyond the columns at " << row << ", " << i;
        ASSERT_EQ(half, 0xcdcdu) << "beyond the columns at " << row << ", " << i;
      }
    }
}

void expect_same(const QuantizedLinear& layer) {
  const auto weights = cuda::upload(layer, nullptr);
  EXPECT_GE(weights->bytes() * 8, layer.stored_bits().total());
  const int64_t wide = (layer.in() + 7) / 8 * 8 + 8;
  std::vector<Level> levels{0};
  for (const Level level : layer.levels())
    if (level > 0) levels.push_back(level);
  for (const Level level : levels)
    for (const Level minus : levels)
      if (minus <= level) {
        const MatrixBuffer<float> expected = difference(layer, level, minus);
        for (const int64_t stride : {wide, layer.in()}) expect_same(*weights, expected, level, minus, stride);
      }
}

std::vector<uint16_t> random_halves(int64_t count, uint64_t seed) {
  std::vector<uint16_t> result;
  for (const float value : testing::random_vector(count, seed)) result.push_back(to_half(value));
  return result;
}

MatrixBuffer<uint16_t> random_half_matrix(int64_t rows, int64_t cols, uint64_t seed) {
  MatrixBuffer<uint16_t> matrix(rows, cols);
  std::ranges::copy(random_halves(rows * cols, seed), matrix.data());
  return matrix;
}

MatrixBuffer<uint8_t> random_codes(int64_t rows, int64_t cols, int bits, uint64_t seed) {
  MatrixBuffer<uint8_t> codes(rows, cols);
  Rng rng(seed);
  for (int64_t i = 0; i < codes.size(); ++i) codes.data()[i] = static_cast<uint8_t>(rng.below(1u << bits));
  return codes;
}

class CudaLayouts : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  }
};

LayerPtr dense(int64_t out, int64_t in, DType dtype) {
  Rng rng(1);
  const uint64_t infinity = dtype == DType::f16 ? 0x7c00 : 0x7f80;
  std::vector<uint16_t> bits;
  for (int64_t i = 0; i < out * in; ++i)
    bits.push_back(static_cast<uint16_t>(rng.below(infinity) | (rng.below(2) << 15)));
  return std::make_unique<DenseLinear>(DenseShape{out, in, dtype}, std::move(bits));
}

TEST_F(CudaLayouts, Dense) {
  for (const DType dtype : {DType::f16, DType::bf16})
    for (const auto& [out, in] :
         {std::pair<int64_t, int64_t>{1, 1}, {37, 29}, {128, 192}, {63, 200}, {300, 65}})
      expect_same(*dense(out, in, dtype));
}

LayerPtr nested(NestedShape shape) {
  std::vector<uint16_t> table;
  const auto entries = NestedShape::table_offset(shape.table_levels + 1);
  for (const float value : testing::random_vector(entries, 4, 100.0)) table.push_back(to_half(value));
  const MatrixBuffer<uint8_t> codes = random_codes(shape.out, shape.in, 8, 1);
  const int64_t parameters = shape.parameters();
  return std::make_unique<NestedLinear>(std::move(shape), codes, random_halves(parameters, 2),
                                        random_halves(parameters, 3), std::move(table));
}

struct Size {
  int64_t out, in;
};

class CudaNestedLayouts : public ::testing::TestWithParam<Size> {
 protected:
  void SetUp() override {
    if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  }
};

TEST_P(CudaNestedLayouts, EveryDifferenceOfLevels) {
  const auto [out, in] = GetParam();
  for (const GroupAxis axis : {GroupAxis::output, GroupAxis::input})
    for (const int64_t group : {0, 128, 32, 40, 8, 50, 7, 1000})
      for (const std::vector<Level>& levels :
           {std::vector<Level>{0, 2, 4, 8}, {1, 2, 3, 4, 5, 6, 7, 8}, {0, 3}, {2, 3, 4}})
        for (const int tables : {0, 3, 8}) {
          NestedShape shape{out, in, group, axis, levels, std::min<int>(tables, levels.back())};
          SCOPED_TRACE(fmt::format("axis {}, group {}, up to level {}, {} tables", static_cast<int>(axis),
                                   group, levels.back(), shape.table_levels));
          expect_same(*nested(std::move(shape)));
          if (HasFatalFailure()) return;
        }
}

// Planes of a channel at multiples of 16, of 4 and of 1 bytes; whole and cut tiles of 64 x 256.
INSTANTIATE_TEST_SUITE_P(Sizes, CudaNestedLayouts,
                         ::testing::Values(Size{256, 64}, Size{384, 136}, Size{288, 70}, Size{531, 67},
                                           Size{1, 1}, Size{9, 200}),
                         [](const auto& each) {
                           return fmt::format("{}x{}", each.param.out, each.param.in);
                         });

LayerPtr group_affine(const GroupAffineShape& shape) {
  const MatrixBuffer<uint8_t> codes = random_codes(shape.out, shape.in, shape.bits, 1);
  const MatrixBuffer<uint16_t> scales = random_half_matrix(shape.out, shape.groups(), 2);
  const std::vector<uint16_t> columns = random_halves(shape.column_scales ? shape.in : 0, 4);
  if (shape.real_zeros) {
    MatrixBuffer<uint16_t> zeros(shape.out, shape.groups());
    for (int64_t i = 0; i < zeros.size(); ++i) zeros.data()[i] = to_half(0.37f * static_cast<float>(i % 41));
    return std::make_unique<GroupAffineLinear>(shape, codes, scales, zeros.view(), columns);
  }
  const MatrixBuffer<uint8_t> zeros = random_codes(shape.out, shape.groups(), shape.bits, 3);
  return std::make_unique<GroupAffineLinear>(shape, codes, scales, zeros.view(), columns);
}

TEST_F(CudaLayouts, GroupAffine) {
  for (const Size size : {Size{64, 512}, Size{37, 203}, Size{1, 1}, Size{70, 301}, Size{33, 8}})
    for (int bits = 2; bits <= 8; ++bits)
      for (const int64_t group : {128, 0, 32, 7, 1, 12})
        for (const int zeros : {0, 1, 2})
          for (const bool columns : {false, true}) {
            GroupAffineShape shape{size.out, size.in, bits, group};
            shape.symmetric = zeros == 1;
            shape.real_zeros = zeros == 2;
            shape.column_scales = columns;
            SCOPED_TRACE(fmt::format("{} x {}, {} bits, group {}, zeros {}, columns {}", size.out, size.in,
                                     bits, group, zeros, columns));
            expect_same(*group_affine(shape));
            if (HasFatalFailure()) return;
          }
}

LayerPtr lut_planes(int64_t out, int64_t in, std::vector<Level> levels, bool with_outliers) {
  LutPlanesShape shape{out, in, std::move(levels)};
  Outliers outliers;
  if (with_outliers) {
    outliers.row_begin.push_back(0);
    for (int64_t row = 0; row < out; ++row) {
      for (int64_t i = row % 5; i < in; i += 11) outliers.columns.push_back(static_cast<uint32_t>(i));
      outliers.row_begin.push_back(static_cast<uint32_t>(outliers.columns.size()));
    }
  }
  const MatrixBuffer<uint8_t> codes = random_codes(out, in, shape.planes(), 1);
  std::vector<uint16_t> tables = random_halves(shape.table_offset(kFullLevel), 2);
  return std::make_unique<LutPlanesLinear>("layer", std::move(shape), codes, std::move(tables), outliers,
                                           testing::random_matrix(out, in, 3));
}

TEST_F(CudaLayouts, LutPlanes) {
  for (const bool outliers : {false, true}) {
    expect_same(*lut_planes(12, 64, {3, 4, 5, 6, 7, 8}, outliers));
    expect_same(*lut_planes(7, 50, {4}, outliers));
    expect_same(*lut_planes(9, 33, {0, 2, 3}, outliers));
    expect_same(*lut_planes(5, 3001, {0, 1, 2, 3, 4, 5, 6, 7, 8}, outliers));
    expect_same(*lut_planes(1, 1, {1}, outliers));
    expect_same(*lut_planes(2, 65537, {2, 5}, outliers));
  }
}

LayerPtr group_mixed(int64_t out, int64_t in, int64_t group, const std::vector<uint8_t>& cycle) {
  GroupMixedShape shape{out, in, group, {}};
  for (int64_t g = 0; g < shape.groups(); ++g)
    shape.widths.push_back(cycle[static_cast<size_t>(g) % cycle.size()]);
  GroupMixedParts parts(shape);
  Rng rng(1);
  for (int64_t row = 0; row < out; ++row)
    for (int64_t g = 0; g < shape.groups(); ++g) {
      const auto values = uint64_t{1} << shape.widths[static_cast<size_t>(g)];
      for (int64_t i = shape.begin_of(g); i < shape.end_of(g); ++i)
        parts.codes.row(row)[i] = static_cast<uint8_t>(rng.below(values));
      parts.zeros.row(row)[g] = static_cast<uint8_t>(rng.below(values));
      parts.scales.row(row)[g] = to_half(static_cast<float>(rng.normal()));
      parts.means.row(row)[g] = to_half(static_cast<float>(rng.normal()));
    }
  return std::make_unique<GroupMixedLinear>(std::move(shape), parts);
}

TEST_F(CudaLayouts, GroupMixed) {
  for (const std::vector<uint8_t>& cycle :
       {std::vector<uint8_t>{3}, {1}, {2, 3, 4}, {1, 2, 3, 1}, {8, 5, 7, 6, 1}})
    for (const int64_t group : {128, 20, 16, 3, 1, 5000}) {
      SCOPED_TRACE(fmt::format("group {}, first width {}", group, cycle[0]));
      expect_same(*group_mixed(7, 397, group, cycle));
      expect_same(*group_mixed(65, 512, group, cycle));
      expect_same(*group_mixed(1, 1, group, cycle));
    }
}

LayerPtr aligned(int64_t out, int64_t in, int64_t wide_every, int64_t outlier_every) {
  Aligned2416Shape shape{out, in, {}};
  for (int64_t g = 0; g < shape.groups(); ++g)
    shape.wide.push_back(wide_every > 0 && g % wide_every == wide_every - 1);
  Aligned2416Parts parts(shape);
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
  // Codes of outliers stay as they are, so that the sum is seen.
  int64_t narrow = 0;
  for (int64_t row = 0; row < out; ++row)
    for (int64_t i = 0; i < in; ++i)
      if (!shape.wide[static_cast<size_t>(i / 16)] && outlier_every > 0 && ++narrow % outlier_every == 0)
        parts.outliers.push_back({row, i, to_half(static_cast<float>(rng.normal()))});
  return std::make_unique<Aligned2416Linear>(std::move(shape), parts);
}

TEST_F(CudaLayouts, Aligned2416) {
  expect_same(*aligned(32, 256, 8, 200));
  expect_same(*aligned(37, 203, 5, 11));
  expect_same(*aligned(1, 1, 0, 0));
  expect_same(*aligned(17, 5, 1, 0));
  expect_same(*aligned(16, 16, 0, 3));
  expect_same(*aligned(50, 100, 1, 0));
  expect_same(*aligned(3, 90, 2, 1));
  expect_same(*aligned(21, 4099, 3, 7));
}

// A layer of a layout that no device knows.
class Unknown final : public QuantizedLinear {
 public:
  int64_t in() const override { return 1; }
  int64_t out() const override { return 1; }
  std::string_view layout() const override { return "unknown"; }
  std::span<const Level> levels() const override { return {}; }
  std::vector<NamedBuffer> buffers() const override { return {}; }
  Json attributes() const override { return {}; }
  BitCount read_bits(const LevelCounts&) const override { return {}; }
  void dequantize_rows(std::span<const Level>, int64_t, int64_t, Matrix<float>) const override {}
};

TEST_F(CudaLayouts, ALayoutWithoutKernelsIsRefusedByName) {
  try {
    cuda::upload(Unknown(), nullptr);
    FAIL() << "uploaded";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("'unknown'"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace grinqh
