// Layers for measuring: what every layout registers, and the grading that is solved for inputs.
#include "quant/bench_layers.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/dtype.h"
#include "numbers.h"

namespace grinqh {
namespace {

double mean_code_bits(const QuantizedLinear& layer, Level level) {
  return static_cast<double>(layer.read_bits(LevelCounts::uniform(level, layer.in())).codes()) /
         static_cast<double>(layer.weights());
}

TEST(BenchLayers, EveryLayoutHasItsOwn) {
  std::set<std::string> measured;
  for (const BenchLayers& each : bench_layers()) measured.insert(each.layout);
  for (const auto& [name, info] : layouts()) EXPECT_TRUE(measured.contains(name)) << name;
}

TEST(BenchLayers, HaveTheBitsThatTheySayAndWeightsOfTheSizeOfTrainedOnes) {
  for (const BenchLayers& layers : bench_layers()) {
    SCOPED_TRACE(layers.name());
    ASSERT_FALSE(layers.bits.empty());
    EXPECT_TRUE(std::ranges::is_sorted(layers.levels));
    for (const double bits : layers.bits) {
      SCOPED_TRACE(bits);
      const auto layer = layers.make(96, 1024, bits, 3);
      EXPECT_EQ(layer->layout(), layers.layout);
      EXPECT_EQ(layer->out(), 96);
      EXPECT_EQ(layer->in(), 1024);
      Level level = layer->full_level();
      if (layers.reading == BenchReading::level) level = static_cast<Level>(bits);
      if (layers.reading == BenchReading::graded) {
        for (const Level each : layers.levels)
          EXPECT_TRUE(std::ranges::find(layer->levels(), each) != layer->levels().end());
      } else {
        EXPECT_NEAR(mean_code_bits(*layer, level), bits, 1e-9);
      }
      const MatrixBuffer<float> w = layer->dequantize(level);
      double squares = 0;
      int64_t zeros = 0;
      for (int64_t i = 0; i < w.size(); ++i) {
        squares += std::pow(static_cast<double>(w.data()[i]), 2);
        zeros += w.data()[i] == 0.0f;
      }
      const double deviation = std::sqrt(squares / static_cast<double>(w.size()));
      EXPECT_GT(deviation, 0.25 * kBenchDeviation);
      EXPECT_LT(deviation, 4 * kBenchDeviation);
      EXPECT_LT(static_cast<double>(zeros), 0.5 * static_cast<double>(w.size()));
    }
  }
}

TEST(BenchLayers, TheSameSeedGivesTheSameLayer) {
  for (const BenchLayers& layers : bench_layers()) {
    SCOPED_TRACE(layers.name());
    const auto make = [&](uint64_t seed) {
      return copy_buffers(*layers.make(32, 256, layers.bits[0], seed));
    };
    EXPECT_EQ(make(1), make(1));
    EXPECT_NE(make(1), make(2));
  }
}

TEST(BenchGrading, MeetsTheMean) {
  for (const int64_t tokens : {1, 4}) {
    const MatrixBuffer<float> x = bench_inputs(tokens, 1000, 5);
    for (int64_t i = 0; i < x.size(); ++i) ASSERT_EQ(x.data()[i], rounded_to(DType::bf16, x.data()[i]));
    for (const double bits : {1.0, 2.0, 2.5, 3.0, 4.0, 7.9}) {
      const ChannelGrading grading = bench_grading(x, {0, 2, 4, 8}, bits);
      MatrixBuffer<Level> chosen(tokens, 1000);
      const std::vector<Step> steps(static_cast<size_t>(tokens), Step{Phase::decode});
      grade_channels(grading, steps, x, chosen);
      double sum = 0;
      for (int64_t i = 0; i < chosen.size(); ++i) sum += chosen.data()[i];
      // Within a few channels, which bfloat16 makes alike.
      EXPECT_NEAR(sum / static_cast<double>(chosen.size()), bits, 16.0 / 1000) << tokens << " tokens";
      // The larger of two channels is read at no less.
      const Matrix<float> values = x.view();
      for (int64_t i = 1; i < 1000; ++i)
        if (std::abs(values(0, i)) >= std::abs(values(0, 0))) {
          EXPECT_GE(chosen.view()(0, i), chosen.view()(0, 0));
        }
    }
  }
}

TEST(BenchGrading, ThresholdsStandAsTheErrorsOfTheLevelsDo) {
  const MatrixBuffer<float> x = bench_inputs(1, 4096, 6);
  const ChannelGrading grading = bench_grading(x, {0, 2, 4}, 2.5);
  // Errors 1, 1/16, 1/256 at 0, 2 and 4 bits: sqrt(2 / (15 / 16)) and four times that.
  EXPECT_NEAR(grading.thresholds.data()[1] / grading.thresholds.data()[0], 4.0, 1e-5);
}

}  // namespace
}  // namespace grinqh
