// What every registered policy must do, with its defaults, on the layers of every registered quantizer.
#include "quant/precision_policy.h"

#include "conformance/random_layer.h"
#include "model_files.h"

namespace grinqh {
namespace {

using testing::RandomLayer;

const RandomLayer& layer() {
  static const RandomLayer random;
  return random;
}

struct Pair {
  std::string policy, quantizer;
};

std::vector<Pair> pairs() {
  std::vector<Pair> all;
  for (const std::string& policy : Registry<PrecisionPolicy>::get().names())
    for (const std::string& quantizer : Registry<Quantizer>::get().names())
      all.push_back({policy, quantizer});
  return all;
}

void PrintTo(const Pair& pair, std::ostream* out) { *out << pair.policy << " on " << pair.quantizer; }

class EveryPolicy : public ::testing::TestWithParam<Pair> {
 protected:
  void SetUp() override {
    quantized_ = testing::quantize(*Registry<Quantizer>::get().make(GetParam().quantizer), layer().task());
    policy_ = Registry<PrecisionPolicy>::get().make(GetParam().policy);
    LayerStats needed;
    for (const std::string& name : policy_->needs())
      needed.values.emplace(name, layer().stats.values.at(name));
    try {
      policy_->prepare({layer().task().id, layer().weight, needed}, *quantized_);
      policy_->allot();
      covered_ = true;
    } catch (const BadInput& error) {
      // Allowed, if it says what the layer has.
      EXPECT_THAT(error.what(), ::testing::HasSubstr(std::to_string(int{quantized_->full_level()})));
    }
    for (int64_t t = 0; t < RandomLayer::kTokens; ++t)
      steps_.push_back({Phase::decode, static_cast<int32_t>(t), static_cast<int32_t>(t)});
  }

  // Levels of tokens [begin, end), whichever way the policy says them.
  MatrixBuffer<Level> levels(int64_t begin, int64_t end) const {
    const int64_t in = RandomLayer::kIn;
    MatrixBuffer<Level> scratch(end - begin, in);
    const Precision chosen = policy_->choose(
        layer().task().id,
        std::span(steps_).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)),
        layer().inputs.view().rows_between(begin, end), scratch);
    if (chosen.levels.empty()) {
      std::fill_n(scratch.data(), scratch.size(), quantized_->resolve(chosen.uniform));
    } else {
      EXPECT_EQ(chosen.levels.data, scratch.data());
      EXPECT_EQ(chosen.levels.rows, end - begin);
      EXPECT_EQ(chosen.levels.cols, in);
    }
    return scratch;
  }

  static std::vector<Level> values(const MatrixBuffer<Level>& levels) {
    return {levels.data(), levels.data() + levels.size()};
  }

  std::unique_ptr<QuantizedLinear> quantized_;
  std::unique_ptr<PrecisionPolicy> policy_;
  bool covered_ = false;
  std::vector<Step> steps_;
};

TEST_P(EveryPolicy, AsksForLevelsThatTheLayerHas) {
  if (!covered_) return;
  for (const Level level : values(levels(0, RandomLayer::kTokens)))
    ASSERT_NE(std::ranges::find(quantized_->levels(), level), quantized_->levels().end()) << int{level};
}

TEST_P(EveryPolicy, ChoosesForEachTokenAlone) {
  if (!covered_) return;
  const std::vector<Level> together = values(levels(0, RandomLayer::kTokens));
  for (int64_t t = 0; t < RandomLayer::kTokens; t += 29) {
    const std::vector<Level> alone = values(levels(t, t + 1));
    ASSERT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + t * RandomLayer::kIn)) << t;
  }
}

TEST_P(EveryPolicy, DoesNotDependOnThreads) {
  if (!covered_) return;
  const std::vector<Level> expected = values(levels(0, RandomLayer::kTokens));
  for (const int count : {1, 3}) {
    const testing::Threads threads(count);
    EXPECT_EQ(values(levels(0, RandomLayer::kTokens)), expected);
  }
}

TEST_P(EveryPolicy, CanBePreparedAgain) {
  if (!covered_) return;
  const std::vector<Level> expected = values(levels(0, 50));
  policy_->prepare(layer().task(), *quantized_);
  policy_->allot();
  EXPECT_EQ(values(levels(0, 50)), expected);
}

TEST_P(EveryPolicy, UnknownOptionsAreRejected) {
  EXPECT_REFUSED(
      Registry<PrecisionPolicy>::get().make(GetParam().policy, {{"no_such_option", {1, "file.toml:5"}}}),
      "file.toml:5", "policy '" + GetParam().policy + "'", "'no_such_option'");
}

TEST_P(EveryPolicy, StatisticsThatItNeedsAreCollectedSomewhere) {
  for (const std::string& name : policy_->needs()) EXPECT_TRUE(testing::is_collected(name)) << name;
}

INSTANTIATE_TEST_SUITE_P(Registered, EveryPolicy, ::testing::ValuesIn(pairs()),
                         [](const auto& each) { return each.param.policy + "_on_" + each.param.quantizer; });

// A quantizer whose layers have several levels must be there, or the tests above prove little.
TEST(Policies, RunOnALayerOfSeveralLevels) {
  int covered = 0;
  for (const std::string& name : Registry<Quantizer>::get().names())
    covered += testing::quantize(*Registry<Quantizer>::get().make(name), layer().task())->levels().size() > 1;
  EXPECT_GT(covered, 0);
}

TEST(Policies, HaveNamesOfTheirOwn) { EXPECT_TRUE(Registry<PrecisionPolicy>::get().conflicts().empty()); }

}  // namespace
}  // namespace grinqh
