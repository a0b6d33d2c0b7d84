#include "core/dtype.h"
#include "core/registry.h"
#include "kernels/group_affine/layout.h"
#include "model_files.h"
#include "numbers.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

Settings options(int bits, int64_t group, bool symmetric = false) {
  return {{"bits", {bits, "test"}}, {"group", {group, "test"}}, {"symmetric", {symmetric, "test"}}};
}

std::unique_ptr<QuantizedLinear> quantize(Matrix<const float> weight, const Settings& settings) {
  const LayerStats nothing;
  return Registry<Quantizer>::get().make("rtn", settings)->quantize({"layer", weight, nothing});
}

std::vector<float> decoded_row(const std::vector<float>& row, const Settings& settings) {
  std::vector<float> values = row;
  const MatrixBuffer<float> w =
      quantize({values.data(), 1, static_cast<int64_t>(values.size())}, settings)->dequantize();
  return {w.data(), w.data() + w.size()};
}

void expect_near(const std::vector<float>& found, const std::vector<float>& expected, float allowed = 2e-3f) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], allowed) << i;
}

using Row = std::vector<float>;

TEST(Rtn, AsymmetricByHand) {
  // Range [-1, 2], three steps of 1: codes at -1, 0, 1, 2.
  expect_near(decoded_row({-1.0f, -0.6f, -0.4f, 0.3f, 0.6f, 1.4f, 2.0f}, options(2, 0)),
              {-1, -1, 0, 0, 1, 1, 2});
}

TEST(Rtn, AsymmetricRangesIncludeZero) {
  // Range [0, 3] although no weight is below 2; three steps of 1.
  expect_near(decoded_row({2.0f, 2.4f, 2.6f, 3.0f}, options(2, 0)), {2, 2, 3, 3});
  expect_near(decoded_row({-2.0f, -2.4f, -2.6f, -3.0f}, options(2, 0)), {-2, -2, -3, -3});
}

TEST(Rtn, SymmetricByHand) {
  // Range [-3, 3] in 3 steps of 2, zero at code 2: codes at -4, -2, 0, 2.
  expect_near(decoded_row({-3.0f, -1.4f, -0.9f, 0.9f, 1.1f, 2.0f}, options(2, 0, true)), {-4, -2, 0, 0, 2, 2},
              4e-3f);
}

TEST(Rtn, EveryGroupHasItsOwnGridAndTheLastMayBeShort) {
  // Groups of 3: [-1, 2], [0, 30], and the rest [0, 3].
  expect_near(decoded_row({-1.0f, 0.6f, 2.0f, 0.0f, 14.0f, 30.0f, 1.2f, 3.0f}, options(2, 3)),
              {-1, 1, 2, 0, 10, 30, 1, 3}, 0.02f);
}

TEST(Rtn, PerChannelIsOneGroupARow) {
  MatrixBuffer<float> weight(2, 4);
  const float values[] = {0, 1, 2, 3, 0, 10, 20, 30};
  std::copy_n(values, 8, weight.data());
  const auto layer = quantize(weight, options(2, 0));
  const MatrixBuffer<float> w = layer->dequantize();
  expect_near({w.data(), w.data() + 8}, {0, 1, 2, 3, 0, 10, 20, 30}, 0.02f);
  EXPECT_EQ(layer->stored_bits()[Role::scales], 2 * 16);
  EXPECT_EQ(quantize(weight, options(2, 4))->attributes()["group"], 4);
  const MatrixBuffer<float> same = quantize(weight, options(2, 1000))->dequantize();
  EXPECT_TRUE(std::equal(w.data(), w.data() + 8, same.data())) << "a group beyond the row is the row";
}

TEST(Rtn, ConstantAndZeroRowsAreExactToFloat16) {
  for (const bool symmetric : {false, true})
    for (int bits = 2; bits <= 8; ++bits) {
      EXPECT_EQ(decoded_row({0, 0, 0, 0, 0}, options(bits, 2, symmetric)), Row(5, 0.0f));
      if (symmetric) continue;  // the symmetric grid has no code at the positive end
      expect_near(decoded_row(Row(5, 0.75f), options(bits, 2)), Row(5, 0.75f), 4e-4f);
      expect_near(decoded_row(Row(5, -0.75f), options(bits, 2)), Row(5, -0.75f), 4e-4f);
    }
}

TEST(Rtn, WeightsBeyondFloat16ScalesAreRefused) {
  EXPECT_REFUSED(decoded_row({0.0f, 1e7f}, options(4, 0)), "layer", "float16");
  EXPECT_REFUSED(decoded_row({0.0f, 3e38f, -3e38f}, options(4, 0, true)), "layer", "float16");
}

TEST(Rtn, ErrorHalvesWithEveryBit) {
  const MatrixBuffer<float> weight = testing::random_matrix(16, 1024, 1);
  for (const bool symmetric : {false, true}) {
    double last = 0;
    for (int bits = 2; bits <= 8; ++bits) {
      const double error =
          testing::relative_error(quantize(weight, options(bits, 128, symmetric))->dequantize(), weight);
      // Steps of range / (2^bits - 1): from 2 to 3 bits they shrink by 7/3, then towards a half.
      if (bits > 2) {
        EXPECT_NEAR(last / error, ((1 << bits) - 1.0) / ((1 << (bits - 1)) - 1.0), 0.12) << bits;
      }
      last = error;
    }
    EXPECT_LT(last, 0.01);
  }
}

TEST(Rtn, SmallerGroupsHaveSmallerErrors) {
  const MatrixBuffer<float> weight = testing::random_matrix(16, 1024, 2);
  double last = HUGE_VAL;
  for (const int64_t group : {0, 256, 64, 16}) {
    const double error = testing::relative_error(quantize(weight, options(3, group))->dequantize(), weight);
    EXPECT_LT(error, last) << group;
    last = error;
  }
}

TEST(Rtn, ClipSearchLowersTheErrorThatItSums) {
  const MatrixBuffer<float> weight = testing::random_matrix(16, 1024, 4);
  for (const int bits : {2, 3, 4}) {
    Settings clipped = options(bits, 128);
    clipped.insert({{"mse", {true, "test"}}, {"mse_norm", {2.0, "test"}}});
    EXPECT_LT(testing::relative_error(quantize(weight, clipped)->dequantize(), weight),
              testing::relative_error(quantize(weight, options(bits, 128))->dequantize(), weight));
  }
}

TEST(Rtn, BitsByHand) {
  const MatrixBuffer<float> weight = testing::random_matrix(10, 300, 3);
  // Groups of 128: 3 a row. 4 bits a weight, a float16 scale and 4 bits of zero point a group, rows of zeros
  // filled up to a byte: 12 bits to 16.
  EXPECT_EQ(quantize(weight, options(4, 128))->stored_bits().total(), 10 * (300 * 4 + 3 * 16 + 16));
  EXPECT_EQ(quantize(weight, options(4, 128, true))->stored_bits().total(), 10 * (300 * 4 + 3 * 16));
}

}  // namespace
}  // namespace grinqh
