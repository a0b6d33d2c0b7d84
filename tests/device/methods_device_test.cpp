// Calibration, quantized layers and policies on a GPU against the CPU's, on an embedded model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "calib/calibrate.h"
#include "calib/calibration_windows.h"
#include "calib/gradients.h"
#include "core/registry.h"
#include "device/on_gpu.h"
#include "experiment/prepare.h"
#include "quant/gradient_collector.h"
#include "quantized_embedded.h"
#include "runtime/language_model.h"

namespace grinqh {
namespace {

using testing::embedded_model;
using testing::on_gpu;
using testing::relative_difference;

const Transformer& cpu() { return embedded_model("qwen3-tiny").transformer; }

CalibrationStats statistics(const Transformer& transformer, const std::string& name) {
  struct Nothing final : Quantizer {
    std::unique_ptr<QuantizedLinear> quantize(const LinearTask&) const override { return nullptr; }
  } quantizer;
  const MatrixBuffer<int32_t> windows = spread_windows(embedded_model("qwen3-tiny").tokens, 3, 64);
  CalibrationPlan plan;
  plan.windows = windows;
  plan.kept = {name};
  plan.inputs = CalibrationInputs::floating;
  return calibrate_and_quantize(transformer, quantizer, plan).stats;
}

class EveryStatistic : public ::testing::TestWithParam<std::string> {};

TEST_P(EveryStatistic, IsTheCpus) {
  GRINQH_NEED_GPU();
  const auto gpu = on_gpu(embedded_model("qwen3-tiny").model, Arithmetic::float32);
  const CalibrationStats expected = statistics(cpu(), GetParam()), found = statistics(*gpu, GetParam());
  ASSERT_EQ(found.size(), expected.size());
  // A count moves to the next bin where a last bit differs.
  const double allowed = GetParam().find("histogram") == std::string::npos ? 1e-4 : 5e-2;
  for (const auto& [layer, stats] : expected) {
    const PlainVector<float>& values = found.at(layer)->values.at(GetParam());
    ASSERT_EQ(values.size(), stats->values.at(GetParam()).size()) << layer;
    EXPECT_LE(relative_difference(testing::as_row(values), testing::as_row(stats->values.at(GetParam()))),
              allowed)
        << layer;
  }
}

INSTANTIATE_TEST_SUITE_P(Registered, EveryStatistic, ::testing::ValuesIn(Registry<Collector>::get().names()),
                         [](const auto& each) { return each.param; });

class EveryGradientStatistic : public ::testing::TestWithParam<std::string> {};

TEST_P(EveryGradientStatistic, IsTheCpus) {
  GRINQH_NEED_GPU();
  const auto gpu = on_gpu(embedded_model("qwen3-tiny").model, Arithmetic::float32);
  const MatrixBuffer<int32_t> windows = spread_windows(embedded_model("qwen3-tiny").tokens, 3, 48);
  const CalibrationStats expected = collect_gradients(cpu(), windows, {GetParam()});
  const CalibrationStats found = collect_gradients(*gpu, windows, {GetParam()});
  for (const auto& [layer, stats] : expected)
    EXPECT_LE(relative_difference(testing::as_row(found.at(layer)->values.at(GetParam())),
                                  testing::as_row(stats->values.at(GetParam()))),
              2e-3)
        << layer;
}

INSTANTIATE_TEST_SUITE_P(Registered, EveryGradientStatistic,
                         ::testing::ValuesIn(Registry<GradientCollector>::get().names()),
                         [](const auto& each) { return each.param; });

// Each as a user writes it on a command line; the policy reads the CPU's layers on both devices.
class EveryMethod : public ::testing::TestWithParam<const char*> {};

TEST_P(EveryMethod, PredictsAsOnTheCpu) {
  GRINQH_NEED_GPU();
  const testing::QuantizedEmbedded method("qwen3-tiny", GetParam(), 3, 96);
  const testing::EmbeddedModel& embedded = method.embedded;
  const auto gpu = on_gpu(embedded.model, Arithmetic::float32);

  constexpr int64_t kPrompt = 24;
  const Batch batch = Batch::of_windows(embedded.windows(2, 96), kPrompt);
  QuantizedLanguageModel here(cpu(), method.model(), method.policy.get()),
      there(*gpu, method.model(), method.policy.get());
  const Tensor expected = here.features(batch), found = there.features(batch);
  std::vector<int32_t> next(batch.tokens.begin() + 1, batch.tokens.end());
  next.push_back(-1);
  std::vector<TokenScore> scores(next.size());
  const MatrixBuffer<float> on_cpu = gpu->to_host(found);
  cpu().score({on_cpu, next, &cpu(), expected}, scores);
  double kl = 0, codes = 0, expected_codes = 0, total = 0, expected_total = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    kl += scores[i].kl / static_cast<double>(scores.size());
    codes += static_cast<double>(there.traffic()->codes[i]);
    total += static_cast<double>(there.traffic()->total[i]);
    expected_codes += static_cast<double>(here.traffic()->codes[i]);
    expected_total += static_cast<double>(here.traffic()->total[i]);
  }
  // Where activations meet thresholds a last bit may choose another level for a channel, of which all layers
  // after it make more: 3e-4 to 6e-4 were seen, by how the device cuts its sums.
  EXPECT_LE(kl, 1e-3);
  EXPECT_NEAR(codes / expected_codes, 1.0, 1e-3);
  EXPECT_NEAR(total / expected_total, 1.0, 1e-3);
}

INSTANTIATE_TEST_SUITE_P(
    Methods, EveryMethod,
    ::testing::Values("quantizer = \"rtn\", bits = 3",
                      "quantizer = \"rtn\", bits = 4, symmetric = true, group = 0", "quantizer = \"hqq\"",
                      "quantizer = \"sinq\"", "quantizer = \"awq\", scales = \"keep\"",
                      "quantizer = \"squeezellm\", sensitivity = \"second_moment\", large_outliers = 0.01",
                      "quantizer = \"any_precision\", sensitivity = \"second_moment\", policy = { name = "
                      "\"uniform\", level = 4 }",
                      "quantizer = \"mixed_2_4_16\"", "quantizer = \"slim_llm\"",
                      "quantizer = \"dense\", policy = { name = \"teal\", sparsity = 0.4 }",
                      "quantizer = \"grinqh\", policy = { name = \"uniform\", level = 2 }",
                      "quantizer = \"grinqh\", levels = [0, 1, 2, 3, 4, 5, 6, 8], policy = { name = "
                      "\"grinqh\", bits = 3.0 }",
                      "quantizer = \"grinqh\", policy = { name = \"grinqh\", bits = 2.5, selection = "
                      "\"exact\", full_tokens = 30, offset = true }",
                      "quantizer = \"grinqh\", levels = [0, 2, 3, 4, 8], policy = { name = \"pmpd\", levels "
                      "= [4, 3], steps = [20] }"),
    [](const auto& each) { return "case_" + std::to_string(each.index); });

}  // namespace
}  // namespace grinqh
