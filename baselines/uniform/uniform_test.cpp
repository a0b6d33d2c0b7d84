#include "core/registry.h"
#include "model_files.h"
#include "numbers.h"
#include "quant/precision_policy.h"

namespace grinqh {
namespace {

class UniformPolicy : public ::testing::Test {
 protected:
  UniformPolicy() {
    const LayerStats nothing;
    layer_ = Registry<Quantizer>::get()
                 .make("grinqh", {{"levels", {{0, 2, 5, 8}, ""}}, {"feedback_bits", {0, ""}}})
                 ->quantize({"layer", weight_, nothing});
  }

  static std::unique_ptr<PrecisionPolicy> make(int level) {
    return Registry<PrecisionPolicy>::get().make("uniform", {{"level", {level, "file.toml:3"}}});
  }

  void prepare(PrecisionPolicy& policy) const {
    const LayerStats nothing;
    policy.prepare({"layer", weight_, nothing}, *layer_);
  }

  Level chosen(const PrecisionPolicy& policy) const {
    MatrixBuffer<Level> scratch(3, 20);
    std::fill_n(scratch.data(), scratch.size(), Level{99});
    const std::vector<Step> steps(3, {Phase::decode, 0, 0});
    const MatrixBuffer<float> x = testing::random_matrix(3, 20, 2);
    const Precision precision = policy.choose("layer", steps, x, scratch);
    EXPECT_TRUE(precision.levels.empty());
    for (int64_t i = 0; i < scratch.size(); ++i) EXPECT_EQ(scratch.data()[i], 99);
    return precision.uniform;
  }

  MatrixBuffer<float> weight_ = testing::random_matrix(6, 20, 1);
  std::unique_ptr<QuantizedLinear> layer_;
};

TEST_F(UniformPolicy, KeepsItsLevel) {
  for (const int level : {2, 5, 8}) {
    const auto policy = make(level);
    prepare(*policy);
    EXPECT_EQ(chosen(*policy), level);
  }
}

TEST_F(UniformPolicy, ReadsEverythingByDefault) {
  const auto by_default = Registry<PrecisionPolicy>::get().make("uniform"), zero = make(0);
  for (PrecisionPolicy* policy : {by_default.get(), zero.get()}) {
    prepare(*policy);
    EXPECT_EQ(layer_->resolve(chosen(*policy)), 8);
  }
}

TEST_F(UniformPolicy, RefusesALevelThatTheLayerDoesNotStore) {
  for (const int level : {1, 3, 9}) {
    const auto policy = make(level);
    EXPECT_REFUSED(prepare(*policy), fmt::format("level {} is not stored", level), "0, 2, 5, 8");
  }
  EXPECT_REFUSED(make(17), "file.toml:3", "level = 17", "0 to 16");
}

TEST_F(UniformPolicy, NeedsNoStatistics) { EXPECT_TRUE(make(2)->needs().empty()); }

}  // namespace
}  // namespace grinqh
