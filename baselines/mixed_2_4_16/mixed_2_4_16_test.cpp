// What the figure of the paper shows, on layers made so that each choice has one answer.
#include <gtest/gtest.h>

#include <cstring>

#include "core/dtype.h"
#include "core/registry.h"
#include "model_files.h"
#include "numbers.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

struct Problem {
  MatrixBuffer<float> weight;
  MatrixBuffer<float> moments;

  Problem(int64_t out, int64_t in)
      : weight(MatrixBuffer<float>::zeroed(out, in)), moments(MatrixBuffer<float>::zeroed(in, in)) {
    for (int64_t i = 0; i < in; ++i) moments.row(i)[i] = 1;
  }

  // Random weights on inputs that correlate.
  static Problem random(int64_t out, int64_t in, uint64_t seed) {
    Problem problem(out, in);
    const int64_t tokens = 2 * in;
    problem.weight = testing::random_matrix(out, in, seed);
    const MatrixBuffer<float> x = testing::random_matrix(tokens, in, seed + 1);
    const std::vector<float> shared = testing::random_vector(tokens, seed + 2, 0.8);
    for (int64_t i = 0; i < in; ++i)
      for (int64_t j = 0; j < in; ++j) {
        double sum = 0;
        for (int64_t t = 0; t < tokens; ++t) {
          const auto common = static_cast<double>(shared[static_cast<size_t>(t)]);
          sum += (static_cast<double>(x.row(t)[i]) + common) * (static_cast<double>(x.row(t)[j]) + common);
        }
        problem.moments.row(i)[j] = static_cast<float>(sum / static_cast<double>(tokens));
      }
    return problem;
  }

  std::unique_ptr<QuantizedLinear> quantize(const Json& options) const {
    Settings settings;
    for (const auto& [key, value] : options.items()) settings.emplace(key, Setting{value, "test"});
    LayerStats stats;
    stats.values["second_moment"].assign(moments.data(), moments.data() + moments.size());
    return Registry<Quantizer>::get().make("mixed_2_4_16", settings)->quantize({"layer", weight, stats});
  }

  // tr((W - Q) H (W - Q)^T)
  double loss(const Json& options) const {
    const MatrixBuffer<float> q = quantize(options)->dequantize();
    double sum = 0;
    for (int64_t row = 0; row < weight.rows(); ++row)
      for (int64_t i = 0; i < weight.cols(); ++i)
        for (int64_t j = 0; j < weight.cols(); ++j)
          sum += static_cast<double>(weight.row(row)[i] - q.row(row)[i]) *
                 static_cast<double>(moments.row(i)[j]) *
                 static_cast<double>(weight.row(row)[j] - q.row(row)[j]);
    return sum;
  }
};

template <class T>
std::vector<T> values_of(const QuantizedLinear& layer, const std::string& name) {
  const Buffers buffers = copy_buffers(layer);
  const std::vector<std::byte>& bytes = buffers.at(name);
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

TEST(Mixed2416, EachSensitivityPicksItsOwnGroup) {
  // Per row, sum of W^2 H: 160, 1.6, 128, 0; range: 0.2, 20, 4, 0; so the product is greatest in group 2.
  const float size[] = {0.1f, 10, 2, 0}, moment[] = {1000, 0.001f, 2, 1};
  Problem problem(16, 64);
  for (int64_t row = 0; row < 16; ++row)
    for (int64_t i = 0; i < 64; ++i) {
      problem.weight.row(row)[i] = i % 2 ? size[i / 16] : -size[i / 16];
      problem.moments.row(i)[i] = moment[i / 16];
    }
  const std::pair<const char*, int> expected[] = {{"hessian", 0}, {"range", 1}, {"hessian_range", 2}};
  for (const auto& [sensitivity, group] : expected)
    EXPECT_EQ(values_of<uint8_t>(*problem.quantize({{"sensitivity", sensitivity}, {"wide", 0.25}}), "wide"),
              (std::vector<uint8_t>{static_cast<uint8_t>(1 << group)}))
        << sensitivity;
}

TEST(Mixed2416, ScalesThatTheSecondOrderGridHoldsLoseNothing) {
  // Rows of a block have scales of 1..8 quarters: second scale 1/4, second zero 1. Weights are multiples of
  // their row's scale; 3-bit, 3-bit and 4-bit scale codes.
  Problem problem(20, 48);
  for (int64_t row = 0; row < 20; ++row)
    for (int64_t i = 0; i < 48; ++i)
      problem.weight.row(row)[i] =
          0.25f * static_cast<float>(1 + row % 8) * static_cast<float>((i + row) % 4 - row % 3);
  for (const bool search : {false, true}) {
    const auto quantized = problem.quantize({{"wide", 0.0}, {"outliers", 0.0}, {"scale_search", search}});
    const MatrixBuffer<float> decoded = quantized->dequantize();
    for (int64_t i = 0; i < decoded.size(); ++i) ASSERT_EQ(decoded.data()[i], problem.weight.data()[i]) << i;
  }
}

TEST(Mixed2416, KeepsWeightsThatStandOutOfNarrowGroupsOnly) {
  Problem problem(32, 128);
  problem.weight = testing::random_matrix(32, 128, 3, 0.02);
  for (int64_t row = 0; row < 32; ++row) problem.weight.row(row)[20] = 1.0f;  // makes group 1 the wide one
  problem.weight.row(3)[25] = -9.0f;
  problem.weight.row(5)[100] = 2.5f;
  problem.weight.row(5)[7] = -1.7f;
  problem.weight.row(30)[64] = 1.1f;
  // 32 rows of 112 narrow inputs, so 3.1 outliers: the three are found, and none of the wide group's.
  const auto quantized = problem.quantize({{"wide", 0.125}, {"outliers", 0.00085}});
  EXPECT_EQ(values_of<uint8_t>(*quantized, "wide"), (std::vector<uint8_t>{0b10}));
  EXPECT_EQ(values_of<uint16_t>(*quantized, "outlier_columns"), (std::vector<uint16_t>{7, 100, 64}));
  const std::vector<uint16_t> counts = values_of<uint16_t>(*quantized, "outlier_counts");
  EXPECT_EQ(counts[5], 2);
  EXPECT_EQ(counts[30], 1);
  const MatrixBuffer<float> decoded = quantized->dequantize();
  EXPECT_NEAR(decoded.row(5)[100], 2.5f, 2.5f / 1024);
  // Its group's scale is that of the others.
  for (int64_t i = 96; i < 112; ++i) EXPECT_NEAR(decoded.row(5)[i], problem.weight.row(5)[i], 0.03f) << i;
}

TEST(Mixed2416, AnOutlierMattersByItsInputsSize) {
  Problem problem(16, 32);
  problem.weight = testing::random_matrix(16, 32, 3, 0.02);
  problem.weight.row(2)[3] = 1.0f;
  problem.weight.row(9)[30] = 0.9f;
  for (int64_t i = 16; i < 32; ++i) problem.moments.row(i)[i] = 4;
  const auto quantized = problem.quantize({{"wide", 0.0}, {"outliers", 0.002}});  // one of 512
  EXPECT_EQ(values_of<uint16_t>(*quantized, "outlier_columns"), (std::vector<uint16_t>{30}));
}

TEST(Mixed2416, EveryPartLowersTheOutputError) {
  const Problem problem = Problem::random(48, 160, 11);
  const double whole = problem.loss(Json::object());
  EXPECT_LT(whole, 0.8 * problem.loss({{"feedback", false}}));
  EXPECT_LT(whole, 0.99 * problem.loss({{"outliers", 0.0}}));
  EXPECT_LT(whole, 0.95 * problem.loss({{"wide", 0.0}}));
  EXPECT_LT(whole, 0.9 * problem.loss({{"scale_search", false}}));
  EXPECT_LT(whole, 0.98 * problem.loss({{"order", false}}));
}

TEST(Mixed2416, BitsAWeightAreThoseOfThePaper) {
  Problem problem(400, 1536);
  problem.weight = testing::random_matrix(400, 1536, 5);
  const auto quantized = problem.quantize({{"feedback", false}, {"scale_search", false}});
  const BitCount stored = quantized->stored_bits();
  // In units of a 768th of a bit: 2 + 16/48 + 20/256 in 2-bit groups, 32 bits for each of 0.5% of their
  // weights, 4 + 20/16 in 4-bit groups.
  const int64_t narrow = 400 * 1344, wide = 400 * 192;
  EXPECT_EQ(stored.total() - stored[Role::index], narrow / 768 * 1852 + narrow / 200 * 32 + wide / 4 * 21);
  EXPECT_EQ(stored[Role::index], 400 * 16 + 96);
}

TEST(Mixed2416, AnInputThatIsAlwaysZeroHasNoWeights) {
  Problem problem = Problem::random(16, 40, 13);
  for (int64_t i = 0; i < 40; ++i) problem.moments.row(i)[5] = problem.moments.row(5)[i] = 0;
  const MatrixBuffer<float> decoded = problem.quantize(Json::object())->dequantize();
  for (int64_t row = 0; row < 16; ++row) EXPECT_EQ(decoded.row(row)[5], 0.0f);
}

TEST(Mixed2416, RefusesMoreInputsThanAColumnCanName) {
  const LayerStats stats;
  const Matrix<const float> wide(nullptr, 1, 70000);
  EXPECT_REFUSED(Registry<Quantizer>::get().make("mixed_2_4_16")->quantize({"model.wide", wide, stats}),
                 "model.wide", "70000 inputs", "16 bits");
}

}  // namespace
}  // namespace grinqh
