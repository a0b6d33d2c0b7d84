// What every registered quantizer must do, with its defaults; a new plugin is tested without an edit here.
#include "conformance/random_layer.h"
#include "model_files.h"
#include "quant/kernel_table.h"

namespace grinqh {
namespace {

using testing::RandomLayer;

const RandomLayer& layer() {
  static const RandomLayer random;
  return random;
}

class EveryQuantizer : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Quantizer> make(const Settings& settings = {}) const {
    return Registry<Quantizer>::get().make(GetParam(), settings);
  }

  // Only the statistics that it says it needs.
  static std::unique_ptr<QuantizedLinear> quantize(Quantizer& quantizer, const RandomLayer& random) {
    const auto only = [&](const CollectorNames& names) {
      LayerStats needed;
      needed.tokens = random.stats.tokens;
      for (const std::string& name : names) needed.values.emplace(name, random.stats.values.at(name));
      return needed;
    };
    if (quantizer.surveys()) {
      quantizer.survey({random.task().id, random.weight, only(quantizer.survey_needs())});
      quantizer.allot();
    }
    return quantizer.quantize({random.task().id, random.weight, only(quantizer.needs())});
  }

  static double error_at(const QuantizedLinear& quantized, Level level) {
    return testing::relative_error(quantized.dequantize(level), layer().weight);
  }
};

TEST_P(EveryQuantizer, KeepsTheShape) {
  const auto quantized = quantize(*make(), layer());
  EXPECT_EQ(quantized->out(), RandomLayer::kOut);
  EXPECT_EQ(quantized->in(), RandomLayer::kIn);
  ASSERT_FALSE(quantized->levels().empty());
  EXPECT_TRUE(std::ranges::is_sorted(quantized->levels(), std::less_equal<>()));
  EXPECT_LE(quantized->full_level(), kMaxLevel);
  EXPECT_TRUE(layouts().contains(quantized->layout()));
}

TEST_P(EveryQuantizer, IsDeterministicForAnyNumberOfThreads) {
  const auto quantizer = make();
  const auto first = quantize(*quantizer, layer());
  EXPECT_EQ(copy_buffers(*quantize(*quantizer, layer())), copy_buffers(*first)) << "a second time";
  for (const int count : {1, 2}) {
    const testing::Threads threads(count);
    EXPECT_EQ(copy_buffers(*quantize(*make(), layer())), copy_buffers(*first)) << count << " threads";
  }
}

TEST_P(EveryQuantizer, RowsOfAllKindsStayNearTheirWeights) {
  const auto quantized = quantize(*make(), layer());
  const MatrixBuffer<float> decoded = quantized->dequantize();
  // A step of the full level over the widest range there is, and as much again for feedback.
  const float allowed = 2.0f * std::exp2(1.0f - static_cast<float>(quantized->full_level()));
  for (int64_t row = 0; row < RandomLayer::kOut; ++row)
    for (int64_t i = 0; i < RandomLayer::kIn; ++i) {
      ASSERT_TRUE(std::isfinite(decoded.row(row)[i])) << row << " " << i;
      ASSERT_NEAR(decoded.row(row)[i], layer().weight.row(row)[i], allowed) << row << " " << i;
    }
}

TEST_P(EveryQuantizer, ErrorFallsAsTheLevelRises) {
  const auto quantized = quantize(*make(), layer());
  double last = HUGE_VAL;
  for (const Level level : quantized->levels()) {
    const double error = error_at(*quantized, level);
    EXPECT_LT(error, last) << int{level};
    if (level == 0) {
      EXPECT_DOUBLE_EQ(error, 1.0) << "level 0 is no weight at all";
    }
    last = error;
  }
  EXPECT_LT(last, 0.5);
}

TEST_P(EveryQuantizer, BitsAreThoseOfItsBuffers) {
  const auto quantized = quantize(*make(), layer());
  int64_t bytes = 0;
  const Buffers buffers = copy_buffers(*quantized);
  for (const auto& [name, buffer] : buffers) bytes += static_cast<int64_t>(buffer.size());
  EXPECT_EQ(quantized->stored_bits().total(), 8 * bytes);
  for (const Level level : quantized->levels()) {
    const BitCount read = quantized->read_bits(LevelCounts::uniform(level, RandomLayer::kIn));
    EXPECT_LE(read.total(), quantized->stored_bits().total()) << int{level};
    // A level is a width in bits: that of all codes or, in a layout that lists several widths, of the widest.
    const Json attributes = quantized->attributes();
    if (attributes.contains("widths")) {
      const auto widths = attributes.at("widths").get<std::vector<int>>();
      EXPECT_EQ(std::ranges::max(widths), quantized->full_level());
      EXPECT_LE(read.codes(), level * quantized->weights());
      EXPECT_GE(read.codes(), std::ranges::min(widths) * quantized->weights());
    } else {
      EXPECT_EQ(read.codes(), level * quantized->weights());
    }
  }
}

TEST_P(EveryQuantizer, SavedLayersDecodeIdentically) {
  const auto quantized = quantize(*make(), layer());
  const Buffers saved = copy_buffers(*quantized);
  const Json attributes = Json::parse(quantized->attributes().dump());
  const auto rebuilt = layouts().find(quantized->layout())->second.rebuild(saved, attributes);
  EXPECT_EQ(rebuilt->in(), quantized->in());
  EXPECT_EQ(rebuilt->out(), quantized->out());
  EXPECT_EQ(rebuilt->layout(), quantized->layout());
  EXPECT_TRUE(std::ranges::equal(rebuilt->levels(), quantized->levels()));
  EXPECT_EQ(rebuilt->attributes(), attributes);
  EXPECT_EQ(copy_buffers(*rebuilt), saved);
  for (const Level level : quantized->levels()) {
    const MatrixBuffer<float> found = rebuilt->dequantize(level), expected = quantized->dequantize(level);
    EXPECT_TRUE(std::equal(found.data(), found.data() + found.size(), expected.data())) << int{level};
  }
}

TEST_P(EveryQuantizer, ItsKernelMultipliesByWhatItDecodesTo) {
  const auto quantized = quantize(*make(), layer());
  const Kernel& kernel = find_kernel(quantized->layout(), Device::cpu);
  const std::span<const Level> levels = quantized->levels();
  for (const int64_t tokens : {1, 7, 100}) {
    const Matrix<const float> x = layer().inputs.view().rows_between(0, tokens);
    MatrixBuffer<float> y(tokens, RandomLayer::kOut);
    for (const Level level : levels) {
      kernel.forward(*quantized, {x, y, {level, {}}});
      EXPECT_LT(testing::relative_error(y, testing::product_nt(x, quantized->dequantize(level))), 1e-5);
    }
    // Levels by channel and token, drawn from what is stored.
    MatrixBuffer<Level> drawn(tokens, RandomLayer::kIn);
    Rng rng(9);
    for (int64_t i = 0; i < drawn.size(); ++i) drawn.data()[i] = levels[rng.below(levels.size())];
    MatrixBuffer<double> expected(tokens, RandomLayer::kOut);
    MatrixBuffer<float> w(RandomLayer::kOut, RandomLayer::kIn);
    for (int64_t t = 0; t < tokens; ++t) {
      quantized->dequantize_rows(drawn.view().row_span(t), 0, RandomLayer::kOut, w);
      const MatrixBuffer<double> row = testing::product_nt(x.rows_between(t, t + 1), w);
      std::copy_n(row.data(), row.size(), expected.row(t));
    }
    kernel.forward(*quantized, {x, y, {kFullLevel, drawn}});
    EXPECT_LT(testing::relative_error(y, expected), 1e-5) << tokens;
  }
}

TEST_P(EveryQuantizer, UnknownOptionsAreRejected) {
  EXPECT_REFUSED(make({{"no_such_option", {1, "file.toml:5"}}}), "file.toml:5",
                 "quantizer '" + GetParam() + "'", "'no_such_option'", "known: ");
}

TEST_P(EveryQuantizer, StatisticsThatItNeedsAreCollectedSomewhere) {
  for (const std::string& name : make()->needs()) EXPECT_TRUE(testing::is_collected(name)) << name;
}

TEST_P(EveryQuantizer, MissingStatisticsAreNamed) {
  const auto quantizer = make();
  if (quantizer->needs().empty()) return;
  if (quantizer->surveys()) {
    quantizer->survey({"layer", layer().weight.view(), layer().stats});
    quantizer->allot();
  }
  const LayerStats nothing;
  EXPECT_REFUSED(quantizer->quantize({"layer", layer().weight.view(), nothing}), "was not collected");
}

TEST_P(EveryQuantizer, WeightsBeyondTheRangeOfItsScalesAreRefusedOrStayFinite) {
  RandomLayer huge(5);
  huge.weight.row(4)[7] = 3e38f;
  huge.weight.row(4)[8] = -3e38f;
  try {
    const MatrixBuffer<float> decoded = quantize(*make(), huge)->dequantize();
    for (int64_t i = 0; i < decoded.size(); ++i) ASSERT_TRUE(std::isfinite(decoded.data()[i]));
  } catch (const BadInput& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("model.layers.0.mlp.up_proj")) << "names the layer";
  }
}

INSTANTIATE_TEST_SUITE_P(Registered, EveryQuantizer, ::testing::ValuesIn(Registry<Quantizer>::get().names()),
                         [](const auto& each) { return each.param; });

TEST(Registries, HoldNoNameTwice) {
  EXPECT_TRUE(Registry<Quantizer>::get().conflicts().empty());
  EXPECT_TRUE(Registry<Collector>::get().conflicts().empty());
  EXPECT_TRUE(Registry<GradientCollector>::get().conflicts().empty());
}

}  // namespace
}  // namespace grinqh
