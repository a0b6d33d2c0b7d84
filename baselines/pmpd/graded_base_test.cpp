// Chains whose precisions are budgets of another policy.
#include "calib/calibrate.h"
#include "calib/calibration_windows.h"
#include "conformance/random_layer.h"
#include "core/progress.h"
#include "embedded_models.h"
#include "model_files.h"
#include "quant/precision_policy.h"
#include "runtime/language_model.h"

namespace grinqh {
namespace {

using Given = std::map<std::string, Json>;

std::unique_ptr<PrecisionPolicy> make(const std::string& name, const Given& options) {
  Settings settings;
  for (const auto& [key, value] : options) settings.emplace(key, Setting{value, "file.toml:4"});
  return Registry<PrecisionPolicy>::get().make(name, settings);
}

std::unique_ptr<Quantizer> nested() {
  return Registry<Quantizer>::get().make("grinqh", {{"levels", {{0, 1, 2, 3, 4, 5, 6, 8}, ""}}});
}

TEST(PmpdOnABase, EachTokenIsGradedByTheBudgetOfItsPrecision) {
  const testing::RandomLayer layer;
  const auto quantized = nested()->quantize(layer.task());
  const auto policy = make("pmpd", {{"base", "grinqh"}, {"levels", {5, 3, 2}}, {"steps", {2, 3}}});
  std::vector<Step> steps{{Phase::prefill, 0, 0}};
  std::vector<int> budgets{5};  // of the prompt's token, which nothing rests on, that of the next one
  for (int i = 0; i < 6; ++i) {
    steps.push_back({Phase::decode, 1 + i, i});
    budgets.push_back(i < 2 ? 5 : i < 3 ? 3 : 2);
  }
  const auto tokens = static_cast<int64_t>(steps.size());
  const Matrix<const float> x = layer.inputs.view().rows_between(0, tokens);
  policy->prepare(layer.task(), *quantized);
  policy->allot();
  EXPECT_TRUE(policy->looks_at_inputs());
  EXPECT_FALSE(make("pmpd", {{"steps", {2}}})->looks_at_inputs());
  EXPECT_EQ(policy->gradings(layer.task().id).size(), 3u);
  EXPECT_TRUE(make("pmpd", {{"steps", {2}}})->gradings(layer.task().id).empty());
  MatrixBuffer<Level> scratch(tokens, layer.kIn);
  const Precision chosen = policy->choose(layer.task().id, steps, x, scratch);
  for (const int budget : {5, 3, 2}) {
    const auto alone = make("grinqh", {{"bits", budget}});
    for (const std::string& name : alone->needs()) EXPECT_TRUE(policy->needs().contains(name)) << name;
    alone->prepare(layer.task(), *quantized);
    alone->allot();
    MatrixBuffer<Level> expected(tokens, layer.kIn);
    alone->choose(layer.task().id, steps, x, expected);
    for (int64_t t = 0; t < tokens; ++t) {
      if (budgets[static_cast<size_t>(t)] != budget) continue;
      EXPECT_TRUE(std::ranges::equal(chosen.levels.row_span(t), expected.view().row_span(t))) << t;
      // The grading that a device is told for the token grades it so.
      const auto at = static_cast<size_t>(t);
      MatrixBuffer<Level> graded(1, layer.kIn);
      grade_channels(*policy->grading_of(layer.task().id, steps[at]), {&steps[at], 1},
                     x.rows_between(t, t + 1), graded);
      EXPECT_TRUE(std::ranges::equal(graded.view().row_span(0), expected.view().row_span(t))) << t;
    }
  }
}

TEST(PmpdOnABase, FindingsHoldBothScheduleAndBudgets) {
  const testing::RandomLayer layer;
  const auto policy = make("pmpd", {{"base", "grinqh"}, {"steps", {2}}});
  policy->prepare(layer.task(), *nested()->quantize(layer.task()));
  policy->allot();
  const Json found = policy->findings()["base"];
  EXPECT_NEAR(found["4"]["bits"][layer.task().id], 4, 0.01);
  EXPECT_NEAR(found["3"]["bits"][layer.task().id], 3, 0.01);
}

TEST(PmpdOnABase, RefusesABaseWithoutABudget) {
  EXPECT_REFUSED(make("pmpd", {{"base", "uniform"}}), "file.toml:4", "base = \"uniform\"", "'bits'");
  EXPECT_REFUSED(make("pmpd", {{"base", "grinch"}}), "file.toml:4", "base", "'grinch'");
}

TEST(PmpdOnABase, BitsFallAlongTheSequence) {
  Progress::set_enabled(false);
  const testing::EmbeddedModel& embedded = testing::embedded_model("llama-tiny");
  const auto policy = make("pmpd", {{"base", "grinqh"}, {"levels", {4, 2}}, {"steps", {8}}});
  const MatrixBuffer<int32_t> windows = spread_windows(embedded.tokens, 4, 128);
  CalibrationPlan plan;
  plan.windows = windows;
  plan.kept = policy->needs();
  Calibrated calibrated = calibrate_and_quantize(embedded.transformer, *nested(), plan);
  for (const BlockWeights& block : embedded.model.blocks)
    for (const auto& layers : inputs_of(block))
      for (const LinearWeights* layer : layers) {
        const MatrixBuffer<float> weight = to_float(layer->weight);
        policy->prepare({layer->id, weight, *calibrated.stats.at(layer->id)},
                        *calibrated.model.layers.at(layer->id));
      }
  policy->allot();
  constexpr int64_t kPrompt = 16, kContext = 32;
  QuantizedLanguageModel model(embedded.transformer, calibrated.model, policy.get());
  model.features(Batch::of_windows(embedded.windows(1, kContext), kPrompt));
  const auto mean_bits = [&](int64_t begin, int64_t end) {
    double sum = 0;
    for (int64_t t = begin; t < end; ++t)
      sum += static_cast<double>(model.traffic()->codes[static_cast<size_t>(t)]);
    return sum / static_cast<double>((end - begin) * model.quantized_weights());
  };
  EXPECT_NEAR(mean_bits(0, kPrompt), 8, 1e-9);
  EXPECT_NEAR(mean_bits(kPrompt, kPrompt + 8), 4, 0.25);
  EXPECT_NEAR(mean_bits(kPrompt + 8, kContext), 2, 0.25);
}

}  // namespace
}  // namespace grinqh
