// What every registered transform must do, with its defaults, on models with all that architectures differ
// in.
#include "quant/model_transform.h"

#include "calib/calibrate.h"
#include "calib/transform_model.h"
#include "conformance/random_layer.h"
#include "core/progress.h"
#include "embedded_models.h"
#include "model_files.h"
#include "numbers.h"
#include "transform_models.h"

namespace grinqh {
namespace {

using testing::logits_on;
using testing::TransformModels;

std::vector<NamedTransform> chain(const std::string& name) {
  std::vector<NamedTransform> transforms;
  for (const std::string& each : {std::string("fold_norms"), name})
    transforms.push_back({each, Registry<ModelTransform>::get().make(each)});
  return transforms;
}

class EveryTransform : public ::testing::TestWithParam<std::string> {
 protected:
  EveryTransform() { Progress::set_enabled(false); }
};

TEST_P(EveryTransform, LeavesTheLogitsAsTheyAre) {
  for (const auto& [name, model] : TransformModels::get().models) {
    const MatrixBuffer<int32_t> windows = testing::random_windows(model.config.vocab, 3, 20, 1);
    const TransformedModel transformed = transform_model(model, chain(GetParam()), windows, 7);
    // On tokens that the transform did not see.
    const MatrixBuffer<int32_t> others = testing::random_windows(model.config.vocab, 1, 30, 2);
    EXPECT_LT(testing::relative_error(logits_on(transformed.model, others), logits_on(model, others)), 1e-5)
        << name;
    EXPECT_LT(transformed.logits_error, 1e-5) << name;
    EXPECT_NE(transformed.model.digest, model.digest) << name;
  }
}

TEST_P(EveryTransform, IsDeterministicForAnyNumberOfThreads) {
  const Model& model = TransformModels::get().models.begin()->second;
  const MatrixBuffer<int32_t> windows = testing::random_windows(model.config.vocab, 3, 20, 1);
  const std::string expected = transform_model(model, chain(GetParam()), windows, 7).model.digest;
  for (const int count : {1, 3}) {
    const testing::Threads threads(count);
    EXPECT_EQ(transform_model(model, chain(GetParam()), windows, 7).model.digest, expected) << count;
  }
}

TEST_P(EveryTransform, EveryQuantizerRunsOnIt) {
  const Model& model = TransformModels::get().models.at("qwen3_tied");
  const MatrixBuffer<int32_t> windows = testing::random_windows(model.config.vocab, 3, 20, 1);
  const TransformedModel transformed = transform_model(model, chain(GetParam()), windows, 7);
  const Transformer transformer(transformed.model);
  CalibrationPlan plan;
  plan.windows = windows.view();
  for (const std::string& name : Registry<Quantizer>::get().names()) {
    const auto quantizer = Registry<Quantizer>::get().make(name);
    const Calibrated calibrated = calibrate_and_quantize(transformer, *quantizer, plan);
    EXPECT_EQ(calibrated.model.layers.size(), 7 * model.blocks.size()) << name;
    for (const auto& [id, layer] : calibrated.model.layers) {
      const MatrixBuffer<float> decoded = layer->dequantize();
      for (int64_t i = 0; i < decoded.size(); ++i)
        ASSERT_TRUE(std::isfinite(decoded.data()[i])) << name << " " << id;
    }
  }
}

TEST_P(EveryTransform, UnknownOptionsAreRejected) {
  EXPECT_REFUSED(Registry<ModelTransform>::get().make(GetParam(), {{"no_such_option", {1, "file.toml:5"}}}),
                 "file.toml:5", "transform '" + GetParam() + "'", "'no_such_option'");
}

TEST_P(EveryTransform, StatisticsThatItNeedsAreCollectedSomewhere) {
  for (const std::string& name : Registry<ModelTransform>::get().make(GetParam())->needs())
    EXPECT_TRUE(testing::is_collected(name)) << name;
}

INSTANTIATE_TEST_SUITE_P(Registered, EveryTransform,
                         ::testing::ValuesIn(Registry<ModelTransform>::get().names()),
                         [](const auto& each) { return each.param; });

TEST(Transforms, HaveNamesOfTheirOwn) { EXPECT_TRUE(Registry<ModelTransform>::get().conflicts().empty()); }

}  // namespace
}  // namespace grinqh
