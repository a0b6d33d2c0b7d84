// The forward pass against what transformers computed in float32: logits and greedy continuations.
#include <gtest/gtest.h>

#include <algorithm>

#include "eval/conformance.h"
#include "support.h"

namespace grinqh {
namespace {

class ModelGolden : public ::testing::TestWithParam<std::string> {};

TEST_P(ModelGolden, AgreesWithTransformers) {
  const std::filesystem::path folder = testing::source_dir() / GetParam();
  if (!exists(folder)) GTEST_SKIP() << "needs " << GetParam() << ", which is not here";
  const std::vector<Comparison> comparisons = check_conformance(folder, "");
  EXPECT_TRUE(std::ranges::any_of(comparisons, [](const Comparison& each) { return each.what == "logits"; }));
  for (const Comparison& each : comparisons) EXPECT_TRUE(each.agrees) << each.what << ": " << each.figure;
}

INSTANTIATE_TEST_SUITE_P(Folders, ModelGolden,
                         ::testing::Values("../shared/golden/llama_gqa_rope3",
                                           "../shared/golden/llama_mha_tied", "../shared/golden/qwen2_bias",
                                           "../shared/golden/qwen3_gqa_tied", "../shared/golden/qwen3_untied",
                                           "experiments/models/llama-tiny", "experiments/models/qwen3-tiny"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::ranges::replace_if(
                               name, [](unsigned char c) { return !std::isalnum(c); }, '_');
                           return name;
                         });

}  // namespace
}  // namespace grinqh
