#include "core/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/parallel.h"

namespace grinqh {
namespace {

// IEEE 754-2019, 3.4: sign, 5 bits of exponent with bias 15, 10 bits of trailing significand.
double half_by_definition(uint32_t half) {
  const double sign = half & 0x8000 ? -1.0 : 1.0;
  const int exponent = static_cast<int>(half >> 10 & 31);
  const int fraction = static_cast<int>(half & 1023);
  if (exponent == 31) return fraction ? std::numeric_limits<double>::quiet_NaN() : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

bool same_bits(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

template <class T>
std::vector<std::byte> bytes_of(const std::vector<T>& values, size_t misalignment = 0) {
  std::vector<std::byte> bytes(misalignment + values.size() * sizeof(T));
  std::memcpy(bytes.data() + misalignment, values.data(), values.size() * sizeof(T));
  return bytes;
}

TEST(Half, EveryPatternHasTheValueOfItsDefinition) {
  for (uint32_t half = 0; half < 65536; ++half) {
    const float value = from_half(static_cast<uint16_t>(half));
    const double expected = half_by_definition(half);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(value)) << half;
      ASSERT_EQ(std::signbit(value), half >= 32768) << half;
    } else {
      ASSERT_TRUE(same_bits(value, static_cast<float>(expected))) << half;
    }
  }
}

TEST(Half, EveryPatternSurvivesARoundTrip) {
  for (uint32_t half = 0; half < 65536; ++half) {
    const uint16_t back = to_half(from_half(static_cast<uint16_t>(half)));
    if (std::isnan(half_by_definition(half)))
      ASSERT_TRUE(std::isnan(half_by_definition(back)) && (back & 0x8000) == (half & 0x8000)) << half;
    else
      ASSERT_EQ(back, half);
  }
}

// Around the midpoint of every two neighbours, which float32 holds exactly.
TEST(Half, RoundsToNearestAndTiesToEven) {
  for (uint32_t low = 0; low < 0x7bff; ++low) {
    const uint32_t high = low + 1;
    const auto middle = static_cast<float>((half_by_definition(low) + half_by_definition(high)) / 2);
    ASSERT_EQ(to_half(middle), low % 2 == 0 ? low : high) << low;
    ASSERT_EQ(to_half(std::nextafter(middle, 0.0f)), low) << low;
    ASSERT_EQ(to_half(std::nextafter(middle, INFINITY)), high) << low;
    ASSERT_EQ(to_half(-middle), 0x8000 | (low % 2 == 0 ? low : high)) << low;
  }
  // 65520 is halfway to 2^16, the first value that is none.
  EXPECT_EQ(to_half(std::nextafter(65520.0f, 0.0f)), 0x7bff);
  EXPECT_EQ(to_half(65520.0f), 0x7c00);
  EXPECT_EQ(to_half(-1e30f), 0xfc00);
  EXPECT_EQ(to_half(std::numeric_limits<float>::denorm_min()), 0);
}

TEST(TensorView, Bf16IsTheUpperHalfOfAFloat) {
  std::vector<uint16_t> patterns(65536);
  for (size_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<uint16_t>(i);
  const auto bytes = bytes_of(patterns);
  const std::vector<float> values = to_float_vector({DType::bf16, {65536}, bytes});
  for (uint32_t i = 0; i < 65536; ++i) ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), i << 16);
}

TEST(TensorView, RowsOfUnalignedTensors) {
  const auto floats = bytes_of<float>({1, 2, 3, 4, 5, 6}, 1);
  const auto halves = bytes_of<uint16_t>({0x3c00, 0x4000, 0x4200, 0x4400, 0x4500, 0x4600}, 1);
  for (const TensorView& tensor : {TensorView{DType::f32, {3, 2}, std::span(floats).subspan(1)},
                                   TensorView{DType::f16, {3, 2}, std::span(halves).subspan(1)}}) {
    MatrixBuffer<float> rows(2, 2);
    to_float(tensor, 1, 3, rows);
    for (int i = 0; i < 4; ++i)
      EXPECT_EQ(rows.data()[i], static_cast<float>(3 + i)) << to_string(tensor.dtype);
    EXPECT_EQ(to_float(tensor).view()(2, 1), 6.0f);
  }
}

TEST(TensorView, FindsTheFirstNonFiniteElementWithAnyNumberOfThreads) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    const int64_t count = 3'000'000;  // several tasks
    std::vector<std::byte> bytes(static_cast<size_t>(count * size_of(type)));
    const TensorView tensor{type, {count}, bytes};
    EXPECT_EQ(find_non_finite(tensor), -1);
    // All bits set are a NaN in each of the types.
    for (const int64_t at : {count - 1, int64_t{1'500'001}})
      std::memset(bytes.data() + at * size_of(type), 0xff, static_cast<size_t>(size_of(type)));
    EXPECT_EQ(find_non_finite(tensor), 1'500'001) << to_string(type);
  }
  const auto infinite = bytes_of<float>({0, std::numeric_limits<float>::max(), -INFINITY});
  EXPECT_EQ(find_non_finite({DType::f32, {3}, infinite}), 2);
}

TEST(TensorView, EmptyTensorsHaveNoValues) {
  EXPECT_TRUE(to_float_vector({DType::f32, {0}, {}}).empty());
  EXPECT_EQ(find_non_finite({DType::f32, {0, 4}, {}}), -1);
}

}  // namespace
}  // namespace grinqh
