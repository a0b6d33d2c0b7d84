// Values that are made where they are read: those of an independent computation, however they are asked for.
#include "core/generated_values.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <utility>

#include "core/dtype.h"
#include "core/parallel.h"

namespace grinqh {
namespace {

TEST(GeneratedValues, AreThoseOfTheFormula) {
  // SplitMix64's finalizer and the sum of four 16-bit parts, computed by a script of a few lines in Python.
  const GeneratedValues values{12345, 0.25f};
  const std::pair<int64_t, uint16_t> expected[] = {
      {0, 0x3ee1}, {1, 0xbe8b}, {2, 0x3edf}, {1000, 0xbe60}, {123456789, 0x3f06}};
  for (const auto& [at, bits] : expected) EXPECT_EQ(values.at(at), bits) << at;
}

TEST(GeneratedValues, HaveTheirDeviationAndNoMean) {
  const GeneratedValues values{99, 0.5f};
  constexpr int64_t kCount = 1 << 18;
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < kCount; ++i) {
    const double value = std::bit_cast<float>(static_cast<uint32_t>(values.at(i)) << 16);
    sum += value;
    squares += value * value;
  }
  EXPECT_NEAR(sum / kCount, 0, 4 * 0.5 / 512);  // 512: the root of the count
  EXPECT_NEAR(std::sqrt(squares / kCount), 0.5, 0.005);
}

TEST(GeneratedTensor, ReadsTheSameInPartsAsWhole) {
  const GeneratedValues values{7, 2.0f};
  const TensorView tensor = generated_tensor({1000, 700}, values),
                   other = generated_tensor({1000, 700}, values);
  EXPECT_FALSE(tensor.empty());
  const MatrixBuffer<float> whole = to_float(tensor);
  // Parts first, by several threads at once, of a tensor that nobody has read and that takes
  // several tasks to make.
  MatrixBuffer<float> parts(1000, 700);
  parallel_for(100, [&](int64_t i) {
    to_float(other, 10 * i, 10 * i + 10, parts.view().rows_between(10 * i, 10 * i + 10));
  });
  for (int64_t i = 0; i < whole.size(); ++i) {
    ASSERT_EQ(whole.data()[i], std::bit_cast<float>(static_cast<uint32_t>(values.at(i)) << 16)) << i;
    ASSERT_EQ(parts.data()[i], whole.data()[i]) << i;
  }
  EXPECT_EQ(find_non_finite(tensor), -1);
}

}  // namespace
}  // namespace grinqh
