// Widths per layer against all combinations, with losses from another quantizer's decoded weights.
#include <gtest/gtest.h>

#include <cmath>

#include "core/registry.h"
#include "model_files.h"
#include "numbers.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

std::unique_ptr<Quantizer> make(const std::string& name, const Json& options) {
  Settings settings;
  for (const auto& [key, value] : options.items()) settings.emplace(key, Setting{value, "test.toml:3"});
  return Registry<Quantizer>::get().make(name, settings);
}

struct Layer {
  std::string id;
  MatrixBuffer<float> weight;
  LayerStats stats;

  Layer(std::string name, int64_t out, int64_t in, double size, uint64_t seed)
      : id(std::move(name)), weight(testing::random_matrix(out, in, seed, size)) {
    const MatrixBuffer<float> x = testing::random_matrix(3 * in, in, seed + 1);
    PlainVector<float>& moments = stats.values["second_moment"];
    for (int64_t i = 0; i < in; ++i)
      for (int64_t j = 0; j < in; ++j) {
        double sum = 0;
        for (int64_t t = 0; t < x.rows(); ++t)
          sum += static_cast<double>(x.row(t)[i]) * static_cast<double>(x.row(t)[j]);
        moments.push_back(static_cast<float>(sum / static_cast<double>(x.rows())));
      }
    Rng rng(seed + 2);
    for (int64_t i = 0; i < weight.size(); ++i)
      stats.values["fisher_diagonal"].push_back(static_cast<float>(std::exp(rng.normal()) / size));
  }

  LinearTask task() const { return {id, weight, stats}; }

  double loss(int bits, const std::string& sensitivity) const {
    const MatrixBuffer<float> q =
        make("rtn", {{"bits", bits}, {"group", 16}})->quantize(task())->dequantize();
    const auto error = [&](int64_t row, int64_t i) {
      return static_cast<double>(weight.row(row)[i] - q.row(row)[i]);
    };
    const std::span<const float> fisher = stats.at("fisher_diagonal"), h = stats.at("second_moment");
    double sum = 0, whole = 0;
    for (int64_t row = 0; row < weight.rows(); ++row)
      for (int64_t i = 0; i < weight.cols(); ++i) {
        if (sensitivity == "fisher")
          sum += static_cast<double>(fisher[static_cast<size_t>(row * weight.cols() + i)]) *
                 std::pow(error(row, i), 2);
        else
          for (int64_t j = 0; j < weight.cols(); ++j) {
            const auto moment = static_cast<double>(h[static_cast<size_t>(i * weight.cols() + j)]);
            sum += error(row, i) * moment * error(row, j);
            whole +=
                static_cast<double>(weight.row(row)[i]) * moment * static_cast<double>(weight.row(row)[j]);
          }
      }
    return sensitivity == "relative" ? sum / whole : sum;
  }
};

const std::vector<Layer>& layers() {
  static const std::vector<Layer> all = [] {
    std::vector<Layer> made;
    made.emplace_back("model.a", 12, 32, 1.0, 1);
    made.emplace_back("model.b", 8, 32, 0.2, 10);
    made.emplace_back("model.c", 12, 48, 0.5, 20);
    made.emplace_back("model.d", 4, 32, 3.0, 30);
    made.emplace_back("model.e", 8, 16, 0.7, 40);
    return made;
  }();
  return all;
}

std::vector<std::unique_ptr<QuantizedLinear>> quantize_all(const Json& options) {
  const auto quantizer = make("mixed_layers", options);
  EXPECT_TRUE(quantizer->surveys());
  for (const Layer& layer : layers()) quantizer->survey(layer.task());
  quantizer->allot();
  std::vector<std::unique_ptr<QuantizedLinear>> result;
  for (const Layer& layer : layers()) result.push_back(quantizer->quantize(layer.task()));
  return result;
}

// The widths of least loss within the budget, by trying all.
std::vector<int> best_widths(double bits, const std::vector<int>& widths, const std::string& sensitivity) {
  const size_t count = layers().size();
  std::vector<std::map<int, double>> losses(count);
  int64_t weights = 0;
  for (size_t n = 0; n < count; ++n) {
    weights += layers()[n].weight.size();
    for (const int width : widths) losses[n][width] = layers()[n].loss(width, sensitivity);
  }
  std::vector<int> best;
  double least = HUGE_VAL;
  for (int64_t number = 0; number < std::llround(std::pow(widths.size(), count)); ++number) {
    std::vector<int> chosen;
    double loss = 0, cost = 0;
    int64_t rest = number;
    for (size_t n = 0; n < count; ++n, rest /= std::ssize(widths)) {
      chosen.push_back(widths[static_cast<size_t>(rest % std::ssize(widths))]);
      loss += losses[n].at(chosen.back());
      cost += static_cast<double>(chosen.back() * layers()[n].weight.size());
    }
    if (cost <= bits * static_cast<double>(weights) && loss < least) least = loss, best = chosen;
  }
  return best;
}

TEST(MixedLayers, WidthsAreThoseOfLeastLossInTheBudget) {
  for (const std::string sensitivity : {"second_moment", "relative", "fisher"})
    for (const double bits : {2.0, 2.6, 3.0, 4.4, 8.0}) {
      const auto quantized = quantize_all({{"bits", bits}, {"group", 16}, {"sensitivity", sensitivity}});
      std::vector<int> found;
      for (const auto& layer : quantized) found.push_back(layer->full_level());
      EXPECT_EQ(found, best_widths(bits, {2, 3, 4, 8}, sensitivity)) << sensitivity << " " << bits;
    }
}

TEST(MixedLayers, AsksForWhatItsSensitivityIsMadeOf) {
  EXPECT_EQ(make("mixed_layers", {{"sensitivity", "fisher"}})->survey_needs(),
            CollectorNames{"fisher_diagonal"});
  EXPECT_EQ(make("mixed_layers", {{"sensitivity", "relative"}})->survey_needs(),
            CollectorNames{"second_moment"});
  EXPECT_EQ(make("mixed_layers", {{"feedback", false}})->needs(), CollectorNames{});
}

TEST(MixedLayers, LayersAreThoseOfTheirWidth) {
  for (const bool feedback : {false, true}) {
    const auto quantized = quantize_all({{"bits", 3.3}, {"group", 16}, {"feedback", feedback}});
    for (size_t n = 0; n < quantized.size(); ++n) {
      const Json options = {{"bits", int{quantized[n]->full_level()}}, {"group", 16}};
      const auto expected = make(feedback ? "gptq" : "rtn", options)->quantize(layers()[n].task());
      EXPECT_EQ(copy_buffers(*quantized[n]), copy_buffers(*expected)) << n;
    }
  }
}

TEST(MixedLayers, RefusesWidthsThatCannotBe) {
  EXPECT_REFUSED(make("mixed_layers", {{"bits", 2.5}, {"widths", {3, 4}}}), "test.toml:3", "bits = 2.5",
                 "3 to 4");
  EXPECT_REFUSED(make("mixed_layers", {{"widths", {4, 3}}}), "widths must ascend");
  EXPECT_REFUSED(make("mixed_layers", {{"widths", {3, 3}}}), "widths must ascend");
  EXPECT_REFUSED(make("mixed_layers", {{"widths", Json::array()}}), "widths");
}

TEST(MixedLayers, NamesALayerWhoseLossIsNotANumber) {
  Layer layer("model.broken", 4, 16, 1.0, 3);
  layer.stats.values.at("second_moment")[0] = NAN;
  EXPECT_REFUSED(make("mixed_layers", {{"sensitivity", "second_moment"}})->survey(layer.task()),
                 "model.broken", "nan");
}

}  // namespace
}  // namespace grinqh
