// AWQ's two searches against their definitions: exponents tried one by one on a layer's output, and clipped
// ranges by brute force.
#include <gtest/gtest.h>

#include <cmath>

#include "core/registry.h"
#include "model_files.h"
#include "numbers.h"
#include "quant/affine_grid.h"
#include "quant/model_transform.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

constexpr int64_t kOut = 24, kIn = 32, kTokens = 200;

// Inputs of which a few channels are large, as AWQ expects them.
MatrixBuffer<float> salient_inputs(uint64_t seed) {
  MatrixBuffer<float> x = testing::random_matrix(kTokens, kIn, seed);
  for (int64_t t = 0; t < kTokens; ++t)
    for (const int64_t i : {3, 17}) x.row(t)[i] *= 30.0f;
  return x;
}

double output_error(const MatrixBuffer<float>& x, Matrix<const float> w, Matrix<const float> w2) {
  double sum = 0;
  for (int64_t t = 0; t < x.rows(); ++t)
    for (int64_t n = 0; n < w.rows; ++n) {
      double y = 0;
      for (int64_t i = 0; i < w.cols; ++i)
        y +=
            static_cast<double>(x.row(t)[i]) * (static_cast<double>(w(n, i)) - static_cast<double>(w2(n, i)));
      sum += y * y;
    }
  return sum / static_cast<double>(x.rows() * w.rows);
}

// A site of one layer, whose module is the layer itself; notes every answer.
class LayerProbe final : public ModuleProbe {
 public:
  LayerProbe(const MatrixBuffer<float>& x, const MatrixBuffer<float>& w) : x_(x), w_(w) {}
  double error(std::span<const Matrix<const float>> weights) override {
    errors.push_back(output_error(x_, w_, weights[0]));
    return errors.back();
  }
  std::vector<double> errors;

 private:
  const MatrixBuffer<float>& x_;
  const MatrixBuffer<float>& w_;
};

PlainVector<float> mean_magnitudes(const MatrixBuffer<float>& x) {
  std::vector<double> sum(static_cast<size_t>(x.cols()));
  for (int64_t t = 0; t < x.rows(); ++t)
    for (int64_t i = 0; i < x.cols(); ++i) sum[static_cast<size_t>(i)] += std::abs(x.row(t)[i]);
  PlainVector<float> mean;
  for (const double each : sum) mean.push_back(static_cast<float>(each / static_cast<double>(x.rows())));
  return mean;
}

struct ScaleSearch : ::testing::Test {
  MatrixBuffer<float> x = salient_inputs(1), w = testing::random_matrix(kOut, kIn, 2);
  LayerProbe probe{x, w};
  LayerStats stats;

  std::vector<float> found(const Settings& settings, const std::vector<int64_t>& sources) {
    stats.values["mean_magnitude"] = mean_magnitudes(x);
    const std::vector<TransformSite> block{{{{"layer", w.view()}}, false, sources, stats, probe}};
    const auto search = Registry<ModelTransform>::get().make("awq_scales", settings);
    search->see(block);
    TransformPlan plan = search->plan(kIn, 0);
    EXPECT_FALSE(plan.fold_norms);
    EXPECT_EQ(plan.residual_basis.size(), 0);
    return plan.input_scales.contains("layer") ? plan.input_scales.at("layer") : std::vector<float>{};
  }
  static std::vector<int64_t> own_sources() {
    std::vector<int64_t> sources(kIn);
    for (size_t i = 0; i < sources.size(); ++i) sources[i] = static_cast<int64_t>(i);
    return sources;
  }
};

TEST_F(ScaleSearch, TakesTheExponentOfTheLeastErrorAndNeverLosesToNone) {
  for (const int bits : {4, 3, 2}) {
    probe.errors.clear();
    const std::vector<float> scales = found({{"bits", {bits, ""}}, {"group", {16, ""}}}, own_sources());
    ASSERT_EQ(probe.errors.size(), 20u);
    const size_t best = static_cast<size_t>(std::ranges::min_element(probe.errors) - probe.errors.begin());
    EXPECT_LT(probe.errors[best], 0.8 * probe.errors[0]) << bits;
    // magnitude^ratio, largest times smallest 1.
    std::vector<double> expected;
    for (const float magnitude : mean_magnitudes(x))
      expected.push_back(std::pow(static_cast<double>(magnitude), static_cast<double>(best) / 20));
    const auto [low, high] = std::ranges::minmax(expected);
    for (size_t i = 0; i < expected.size(); ++i)
      EXPECT_NEAR(scales[i], expected[i] / std::sqrt(low * high), 1e-5) << i;
  }
}

TEST_F(ScaleSearch, WithoutAnExponentItIsRoundToNearest) {
  const std::vector<float> scales = found({{"grid", {1, ""}}, {"group", {16, ""}}}, own_sources());
  for (const float scale : scales) EXPECT_EQ(scale, 1.0f);
  const LayerStats nothing;
  const auto rtn = Registry<Quantizer>::get().make("rtn", {{"group", {16, ""}}});
  EXPECT_NEAR(probe.errors.at(0),
              output_error(x, w, rtn->quantize({"layer", w.view(), nothing})->dequantize()), 1e-12);
}

TEST_F(ScaleSearch, InputsOfOneSourceShareAScaleOrStay) {
  std::vector<int64_t> sources = own_sources();
  for (size_t i = kIn / 2; i < kIn; ++i) sources[i] -= kIn / 2;
  EXPECT_TRUE(found({}, sources).empty());
  const std::vector<float> scales = found({{"shared_values", {"pool", ""}}}, sources);
  ASSERT_EQ(scales.size(), static_cast<size_t>(kIn));
  for (size_t i = 0; i < kIn / 2; ++i) EXPECT_EQ(scales[i], scales[i + kIn / 2]);
}

struct ClipSearch : ::testing::Test {
  MatrixBuffer<float> x = salient_inputs(5), w = testing::random_matrix(kOut, kIn, 6);
  LayerStats stats;

  ClipSearch() {
    // Weights with long tails, which clipping is for.
    for (int64_t i = 0; i < w.size(); ++i) w.data()[i] = std::pow(w.data()[i], 3.0f);
    stats.tokens = kTokens;
    stats.values["sampled_inputs"].assign(x.data(), x.data() + x.size());
  }
  MatrixBuffer<float> decoded(const std::string& quantizer, const std::string& layer,
                              const Settings& settings = {{"bits", {3, ""}}, {"group", {16, ""}}}) const {
    return Registry<Quantizer>::get()
        .make(quantizer, settings)
        ->quantize({layer, w.view(), stats})
        ->dequantize();
  }
};

TEST_F(ClipSearch, FindsTheBestOfTenRangesOfEveryGroup) {
  const MatrixBuffer<float> found = decoded("awq", "model.layers.0.self_attn.v_proj");
  const AffineGridRule rule{3, false};
  for (int64_t row = 0; row < kOut; ++row)
    for (int64_t begin = 0; begin < kIn; begin += 16) {
      const auto error = [&](const std::vector<float>& group) {
        double sum = 0;
        for (int64_t t = 0; t < kTokens; ++t) {
          double y = 0;
          for (int64_t i = 0; i < 16; ++i)
            y += static_cast<double>(x.row(t)[begin + i]) *
                 static_cast<double>(w.row(row)[begin + i] - group[static_cast<size_t>(i)]);
          sum += y * y;
        }
        return sum;
      };
      const std::vector<float> group(w.row(row) + begin, w.row(row) + begin + 16);
      float largest = 0;
      for (const float weight : group) largest = std::max(largest, std::abs(weight));
      double least = HUGE_VAL;
      for (int step = 0; step < 10; ++step) {
        const float limit = (1.0f - static_cast<float>(step) / 20.0f) * largest;
        std::vector<float> tried = group;
        for (float& weight : tried) weight = std::clamp(weight, -limit, limit);
        const AffineGrid grid = rule.fit(tried, "layer");
        for (float& weight : tried) weight = rule.decode(rule.round(weight, grid), grid);
        least = std::min(least, error(tried));
      }
      const double reached = error({found.row(row) + begin, found.row(row) + begin + 16});
      EXPECT_NEAR(reached, least, 1e-4 * least) << row << " " << begin;
    }
}

TEST_F(ClipSearch, LosesLessThanRoundToNearest) {
  const std::string layer = "model.layers.0.mlp.down_proj";
  EXPECT_LT(output_error(x, w, decoded("awq", layer)), 0.95 * output_error(x, w, decoded("rtn", layer)));
}

TEST_F(ClipSearch, LeavesQueriesAndKeysAlone) {
  for (const char* layer : {"model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"}) {
    const MatrixBuffer<float> found = decoded("awq", layer), expected = decoded("rtn", layer);
    EXPECT_TRUE(std::equal(found.data(), found.data() + found.size(), expected.data())) << layer;
  }
  const MatrixBuffer<float> unclipped = decoded("awq", "v_proj", {{"clip", {false, ""}}});
  const MatrixBuffer<float> nearest = decoded("rtn", "v_proj", {});
  EXPECT_TRUE(std::equal(unclipped.data(), unclipped.data() + unclipped.size(), nearest.data()));
}

TEST_F(ClipSearch, KeptScalesAreThoseOfTheLeastErrorOfTheLayersOutput) {
  stats.values["mean_magnitude"] = mean_magnitudes(x);
  const Settings keep{
      {"bits", {3, ""}}, {"group", {16, ""}}, {"scales", {"keep", ""}}, {"clip", {false, ""}}};
  const auto layer = Registry<Quantizer>::get().make("awq", keep)->quantize({"v_proj", w.view(), stats});
  const double reached = output_error(x, w, layer->dequantize());
  // Scaled by hand, every exponent.
  double least = HUGE_VAL, without = 0;
  for (int step = 0; step < 20; ++step) {
    std::vector<double> s;
    for (const float magnitude : stats.values["mean_magnitude"])
      s.push_back(std::pow(static_cast<double>(magnitude), step / 20.0));
    const auto [low, high] = std::ranges::minmax(s);
    MatrixBuffer<float> scaled(kOut, kIn);
    for (int64_t r = 0; r < kOut; ++r)
      for (int64_t i = 0; i < kIn; ++i)
        scaled.row(r)[i] =
            static_cast<float>(w.row(r)[i] * s[static_cast<size_t>(i)] / std::sqrt(low * high));
    const MatrixBuffer<float> rounded = Registry<Quantizer>::get()
                                            .make("rtn", {{"bits", {3, ""}}, {"group", {16, ""}}})
                                            ->quantize({"v_proj", scaled.view(), stats})
                                            ->dequantize();
    for (int64_t r = 0; r < kOut; ++r)
      for (int64_t i = 0; i < kIn; ++i)
        scaled.row(r)[i] =
            static_cast<float>(rounded.row(r)[i] / s[static_cast<size_t>(i)] * std::sqrt(low * high));
    const double error = output_error(x, w, scaled);
    if (step == 0) without = error;
    least = std::min(least, error);
  }
  EXPECT_NEAR(reached, least, 0.02 * least) << "up to column scales in float16";
  EXPECT_LT(reached, 0.8 * without);
  EXPECT_EQ(layer->attributes()["group"], 16);
  // Clipping comes on top.
  Settings both = keep;
  both["clip"] = {true, ""};
  EXPECT_LT(
      output_error(
          x, w,
          Registry<Quantizer>::get().make("awq", both)->quantize({"v_proj", w.view(), stats})->dequantize()),
      reached);
}

TEST(Awq, AsksForItsScalesAtItsOwnWidth) {
  const auto awq = Registry<Quantizer>::get().make("awq", {{"bits", {3, ""}}, {"group", {64, ""}}});
  const std::vector<TransformChoice> choices = awq->transforms();
  ASSERT_EQ(choices.size(), 1u);
  EXPECT_EQ(choices[0].name, "awq_scales");
  EXPECT_EQ(choices[0].settings.at("bits").value, 3);
  EXPECT_EQ(choices[0].settings.at("group").value, 64);
  EXPECT_TRUE(Registry<Quantizer>::get().make("awq", {{"scales", {"keep", ""}}})->transforms().empty());
}

}  // namespace
}  // namespace grinqh
