// The nested code. The policy's tests are in policy_test.cpp.
#include "core/dtype.h"
#include "core/registry.h"
#include "model_files.h"
#include "numbers.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

const std::vector<int> kAllLevels{0, 1, 2, 3, 4, 5, 6, 7, 8};

// Without feedback and centroids unless asked for: what remains can be followed by hand.
Settings options(std::initializer_list<std::pair<const char*, Json>> values) {
  Settings settings{{"feedback_bits", {0, "file.toml:4"}},
                    {"table", {0, "file.toml:4"}},
                    {"levels", {kAllLevels, "file.toml:4"}}};
  for (const auto& [key, value] : values) settings[key] = {value, "file.toml:4"};
  return settings;
}

std::unique_ptr<QuantizedLinear> quantize(Matrix<const float> weight, const Settings& settings,
                                          const LayerStats& stats = {}) {
  return Registry<Quantizer>::get().make("grinqh", settings)->quantize({"layer", weight, stats});
}

MatrixBuffer<float> transposed(const MatrixBuffer<float>& matrix) {
  MatrixBuffer<float> result(matrix.cols(), matrix.rows());
  for (int64_t i = 0; i < matrix.rows(); ++i)
    for (int64_t j = 0; j < matrix.cols(); ++j) result.row(j)[i] = matrix.row(i)[j];
  return result;
}

double mean_square_error(const QuantizedLinear& layer, Level level, const MatrixBuffer<float>& weight) {
  const double error = testing::relative_error(layer.dequantize(level), weight);
  double norm = 0;
  for (int64_t i = 0; i < weight.size(); ++i) norm += std::pow(static_cast<double>(weight.data()[i]), 2);
  return error * error * norm / static_cast<double>(weight.size());
}

TEST(GrinqhCode, FloorCodesAndMiddlesByHand) {
  // The range [0, 256] in steps of 1: codes 0, 37, 130 and 255 (256 is beyond the last).
  std::vector<float> row{0.0f, 37.4f, 130.9f, 256.0f};
  const std::vector<std::vector<float>> by_level{
      {0, 0, 0, 0},       {64, 64, 192, 192}, {32, 32, 160, 224},
      {16, 48, 144, 240}, {8, 40, 136, 248},  {4, 36, 132, 252},
      {2, 38, 130, 254},  {1, 37, 131, 255},  {0.5f, 37.5f, 130.5f, 255.5f}};
  for (const char* axis : {"input", "output"}) {
    const bool by_row = std::string(axis) == "input";
    const Matrix<const float> weight(row.data(), by_row ? 1 : 4, by_row ? 4 : 1);
    const auto layer = quantize(weight, options({{"group", 0}, {"axis", axis}}));
    for (size_t level = 0; level < by_level.size(); ++level) {
      const MatrixBuffer<float> w = layer->dequantize(static_cast<Level>(level));
      EXPECT_EQ(std::vector<float>(w.data(), w.data() + 4), by_level[level]) << axis << " level " << level;
    }
  }
}

TEST(GrinqhCode, GroupsHaveTheirOwnRangeAndTheLastMayBeShort) {
  // Groups of 2: [0, 256], [-256, 256] in steps of 2, and one weight alone.
  std::vector<float> row{0.0f, 256.0f, -256.0f, 256.0f, 3.0f};
  const auto layer = quantize({row.data(), 1, 5}, options({{"group", 2}, {"axis", "input"}}));
  const MatrixBuffer<float> two = layer->dequantize(2), eight = layer->dequantize(8);
  EXPECT_EQ(std::vector<float>(two.data(), two.data() + 4), (std::vector<float>{32, 224, -192, 192}));
  EXPECT_EQ(std::vector<float>(eight.data(), eight.data() + 4),
            (std::vector<float>{0.5f, 255.5f, -255, 255}));
  EXPECT_NEAR(two.data()[4], 3.0f, 1e-4);
}

TEST(GrinqhCode, TheAxesAreEachOthersTranspose) {
  const MatrixBuffer<float> weight = testing::random_matrix(23, 150, 1), across = transposed(weight);
  const auto by_input = quantize(weight, options({{"group", 32}, {"axis", "input"}}));
  const auto by_output = quantize(across, options({{"group", 32}, {"axis", "output"}}));
  for (const int level : kAllLevels) {
    const MatrixBuffer<float> a = by_input->dequantize(static_cast<Level>(level));
    const MatrixBuffer<float> b = transposed(by_output->dequantize(static_cast<Level>(level)));
    EXPECT_TRUE(std::equal(a.data(), a.data() + a.size(), b.data())) << level;
  }
}

TEST(GrinqhCode, ErrorsOnGaussianWeightsAreThoseOfTheTheory) {
  // Mean squared error for unit Gaussian weights in groups of 128, from an independent simulation.
  const std::vector<std::pair<int, double>> middle{{1, .600}, {2, .143}, {3, .0357}, {4, .0089}, {5, .0023}};
  const std::vector<std::pair<int, double>> fitted{{1, .379}, {2, .132}, {3, .0347}, {4, .0087}};
  const MatrixBuffer<float> weight = testing::random_matrix(128, 1024, 2);
  const auto plain = quantize(weight, options({{"axis", "input"}}));
  const auto table = quantize(weight, options({{"axis", "input"}, {"table", 4}}));
  for (const auto& [level, error] : middle)
    EXPECT_NEAR(mean_square_error(*plain, static_cast<Level>(level), weight), error, 0.04 * error) << level;
  for (const auto& [level, error] : fitted)
    EXPECT_NEAR(mean_square_error(*table, static_cast<Level>(level), weight), error, 0.04 * error) << level;
  double last = HUGE_VAL;
  for (const int level : kAllLevels) {
    const double error = mean_square_error(*plain, static_cast<Level>(level), weight);
    EXPECT_LT(error, last / 1.6) << level;
    last = error;
  }
}

std::vector<float> stored(const QuantizedLinear& layer, const std::string& name) {
  const Buffers buffers = copy_buffers(layer);
  const std::vector<std::byte>& bytes = buffers.at(name);
  std::vector<float> values;
  for (size_t i = 0; i < bytes.size(); i += 2)
    values.push_back(from_half(
        static_cast<uint16_t>(std::to_integer<int>(bytes[i]) | std::to_integer<int>(bytes[i + 1]) << 8)));
  return values;
}

TEST(GrinqhCode, CentroidsAreTheMeansOfTheirCells) {
  const MatrixBuffer<float> weight = testing::random_matrix(40, 96, 3);
  const auto layer = quantize(weight, options({{"group", 32}, {"axis", "input"}, {"table", 4}}));
  const std::vector<float> scales = stored(*layer, "scales"), minima = stored(*layer, "minima");
  const std::vector<float> table = stored(*layer, "table");
  ASSERT_EQ(table.size(), 2u + 4 + 8 + 16);
  size_t entry = 0;
  for (int level = 1; level <= 4; ++level) {
    // The position that minimizes sum (w - minimum - scale position)^2 over the weights of a cell.
    std::vector<double> sum(size_t{1} << level), weights(sum.size());
    for (int64_t row = 0; row < 40; ++row)
      for (int64_t i = 0; i < 96; ++i) {
        const auto group = static_cast<size_t>(row * 3 + i / 32);
        const auto scale = static_cast<double>(scales[group]);
        const double position =
            (static_cast<double>(weight.row(row)[i]) - static_cast<double>(minima[group])) / scale;
        const auto code = static_cast<size_t>(std::clamp(std::floor(position), 0.0, 255.0));
        sum[code >> (8 - level)] += scale * scale * position;
        weights[code >> (8 - level)] += scale * scale;
      }
    for (size_t cell = 0; cell < sum.size(); ++cell, ++entry)
      EXPECT_NEAR(table[entry], sum[cell] / weights[cell], 0.13) << level << " " << cell;  // float16 steps
  }
}

TEST(GrinqhCode, CentroidsOfOneGroupAreTheMeansOfItsWeights) {
  std::vector<float> row{0.0f, 10.0f, 20.0f, 60.0f, 200.0f, 256.0f};
  const auto layer = quantize({row.data(), 1, 6}, options({{"group", 0}, {"axis", "input"}, {"table", 2}}));
  const MatrixBuffer<float> one = layer->dequantize(1), two = layer->dequantize(2);
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_NEAR(one.data()[i], i < 4 ? 22.5f : 228.0f, 0.07);
    EXPECT_NEAR(two.data()[i], i < 4 ? 22.5f : 228.0f, 0.07);
  }
  EXPECT_EQ(stored(*layer, "table")[3], 96.0f) << "a cell without weights keeps its middle";
}

TEST(GrinqhCode, CentroidsLoseNothingAgainstMiddles) {
  const MatrixBuffer<float> weight = testing::random_matrix(64, 256, 4);
  for (const char* axis : {"input", "output"}) {
    const auto plain = quantize(weight, options({{"axis", axis}}));
    const auto table = quantize(weight, options({{"axis", axis}, {"table", 6}}));
    for (Level level = 1; level <= 6; ++level)
      EXPECT_LT(mean_square_error(*table, level, weight), 1.001 * mean_square_error(*plain, level, weight));
  }
}

TEST(GrinqhCode, ConstantAndZeroGroupsDecodeToTheirValue) {
  MatrixBuffer<float> weight(2, 8);
  std::fill_n(weight.row(0), 8, 0.0f);
  std::fill_n(weight.row(1), 8, -0.3f);
  const auto layer = quantize(weight, options({{"axis", "input"}, {"table", 4}}));
  for (Level level = 1; level <= 8; ++level) {
    const MatrixBuffer<float> w = layer->dequantize(level);
    for (int64_t i = 0; i < 8; ++i) {
      EXPECT_NEAR(w.row(0)[i], 0.0f, 3e-5);
      EXPECT_NEAR(w.row(1)[i], -0.3f, 3e-4);
    }
  }
}

// Inputs with strong correlations, and their statistics.
struct Inputs {
  explicit Inputs(int64_t in, double shared) : x(testing::random_matrix(800, in, 5)) {
    for (int64_t t = 0; t < x.rows(); ++t) {
      const float common = x.row(t)[0];
      for (int64_t i = 0; i < in; ++i) x.row(t)[i] += static_cast<float>(shared) * common;
    }
    for (const char* name : {"second_moment", "magnitude_histogram"}) {
      const auto collector = Registry<Collector>::get().make(name);
      collector->observe(x);
      stats.values.emplace(name, collector->finish());
    }
  }
  // Mean squared error of the outputs.
  double loss(const MatrixBuffer<float>& weight, const MatrixBuffer<float>& decoded) const {
    MatrixBuffer<float> difference(weight.rows(), weight.cols());
    for (int64_t i = 0; i < weight.size(); ++i) difference.data()[i] = weight.data()[i] - decoded.data()[i];
    const MatrixBuffer<double> y = testing::product_nt(x, difference);
    double sum = 0;
    for (int64_t i = 0; i < y.size(); ++i) sum += y.data()[i] * y.data()[i];
    return sum / static_cast<double>(y.size());
  }
  MatrixBuffer<float> x;
  LayerStats stats;
};

TEST(GrinqhFeedback, LowersTheErrorOfTheOutputs) {
  const Inputs inputs(64, 1.0);
  const MatrixBuffer<float> weight = testing::random_matrix(32, 64, 6);
  for (const char* axis : {"input", "output"})
    for (const int level : {2, 4}) {
      const Settings plain = options({{"levels", {level}}, {"axis", axis}, {"group", 32}});
      Settings feedback = plain;
      feedback["feedback_bits"] = {level, "test"};
      const auto with = quantize(weight, feedback, inputs.stats), without = quantize(weight, plain);
      EXPECT_LT(inputs.loss(weight, with->dequantize()), 0.75 * inputs.loss(weight, without->dequantize()))
          << axis << " " << level;
    }
}

TEST(GrinqhFeedback, WithoutCorrelationsChangesNothing) {
  Inputs inputs(64, 0.0);
  PlainVector<float>& moments = inputs.stats.values["second_moment"];
  for (size_t i = 0; i < moments.size(); ++i)
    if (i / 64 != i % 64) moments[i] = 0;
  const MatrixBuffer<float> weight = testing::random_matrix(32, 64, 7);
  Settings feedback = options({{"table", 4}, {"table_weights", "scale"}});
  const auto without = quantize(weight, feedback);
  feedback["feedback_bits"] = {3.5, "test"};
  EXPECT_EQ(copy_buffers(*quantize(weight, feedback, inputs.stats)), copy_buffers(*without));
}

// With one level all energy is served there, so a centroid is the mean weight by E[x_i^2]: the least error of
// the outputs, for inputs without correlations.
TEST(GrinqhFeedback, CentroidsByEnergyAreTheLeastErrorOfTheOutputs) {
  Inputs inputs(64, 0.0);
  PlainVector<float>& moments = inputs.stats.values["second_moment"];
  for (size_t i = 0; i < moments.size(); ++i)
    moments[i] = i / 64 != i % 64 ? 0.0f : i / 64 % 2 ? 100.0f : 1.0f;
  MatrixBuffer<float> weight = testing::random_matrix(128, 64, 7);
  for (int64_t i = 1; i < 64; i += 2)  // where the energy is, weights are nearer zero
    for (int64_t row = 0; row < 128; ++row) weight.row(row)[i] *= std::abs(weight.row(row)[i]);
  const auto loss = [&](const char* table_weights) {
    const auto layer = quantize(weight,
                                options({{"levels", {2}},
                                         {"table", 2},
                                         {"feedback_bits", 2},
                                         {"table_weights", table_weights},
                                         {"axis", "input"}}),
                                inputs.stats);
    const MatrixBuffer<float> decoded = layer->dequantize(2);
    double sum = 0;
    for (int64_t row = 0; row < 128; ++row)
      for (int64_t i = 0; i < 64; ++i)
        sum += static_cast<double>(moments[static_cast<size_t>(i * 65)]) *
               std::pow(static_cast<double>(weight.row(row)[i] - decoded.row(row)[i]), 2);
    return sum;
  };
  EXPECT_LT(loss("energy"), 0.99 * loss("scale"));
}

TEST(GrinqhOptions, AreRefusedWithTheirLimits) {
  const MatrixBuffer<float> weight = testing::random_matrix(2, 8, 8);
  const auto make = [&](const char* key, const Json& value) {
    return quantize(weight, options({{key, value}}));
  };
  for (const Json& levels : {Json::array(), Json({0}), Json({4, 2}), Json({2, 2})})
    EXPECT_REFUSED(make("levels", levels), "file.toml:4", "levels = " + levels.dump(), "ascending");
  EXPECT_REFUSED(make("levels", {2, 9}), "file.toml:4", "levels = [2,9]", "0 to 8");
  EXPECT_REFUSED(make("axis", "row"), "file.toml:4", "'row'", "input, output");
  EXPECT_REFUSED(make("table", 7), "table = 7", "0 to 6");
}

TEST(GrinqhOptions, WeightsBeyondFloat16AreRefused) {
  std::vector<float> row{0.0f, 1e6f};
  EXPECT_REFUSED(quantize({row.data(), 1, 2}, options({{"axis", "input"}, {"group", 1}})), "layer",
                 "float16");
}

TEST(GrinqhCode, StoredBitsFollowTheHighestLevel) {
  const MatrixBuffer<float> weight = testing::random_matrix(16, 256, 9);
  for (const int top : {2, 4, 8}) {
    const auto layer = quantize(weight, options({{"axis", "input"}, {"levels", {0, top}}}));
    // 2 groups a row, a scale and a minimum of 16 bits each.
    EXPECT_EQ(layer->stored_bits().total(), 16 * 256 * top + 16 * 2 * 32);
  }
}

}  // namespace
}  // namespace grinqh
