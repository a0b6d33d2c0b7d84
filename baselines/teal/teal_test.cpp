#include <cmath>
#include <functional>

#include "core/registry.h"
#include "model_files.h"
#include "numbers.h"
#include "quant/precision_policy.h"

namespace grinqh {
namespace {

constexpr int64_t kIn = 96, kTokens = 1500;

// Heavy-tailed activations, not symmetric, whose channels differ in size.
const MatrixBuffer<float>& activations() {
  static const MatrixBuffer<float> x = [] {
    MatrixBuffer<float> values = testing::random_matrix(kTokens, kIn, 1);
    Rng rng(2);
    for (int64_t i = 0; i < kIn; ++i) {
      const double size = std::exp(rng.normal());
      for (int64_t t = 0; t < kTokens; ++t)
        values.row(t)[i] =
            static_cast<float>(size * std::exp(0.5 * rng.normal())) * (values.row(t)[i] + 0.3f);
    }
    return values;
  }();
  return x;
}

const LayerStats& stats() {
  static const LayerStats collected = [] {
    LayerStats all;
    const auto collector = Registry<Collector>::get().make("magnitude_histogram");
    collector->observe(activations());
    all.values.emplace("magnitude_histogram", collector->finish());
    return all;
  }();
  return collected;
}

std::unique_ptr<QuantizedLinear> quantize(const std::string& quantizer, const Settings& settings,
                                          int64_t out = 24) {
  return Registry<Quantizer>::get()
      .make(quantizer, settings)
      ->quantize({"layer", testing::random_matrix(out, kIn, 3), stats()});
}
std::unique_ptr<QuantizedLinear> dense(int64_t out = 24) { return quantize("dense", {}, out); }
std::unique_ptr<QuantizedLinear> nested(const std::vector<int>& levels) {
  return quantize("grinqh", {{"levels", {levels, ""}}, {"feedback_bits", {0, ""}}});
}

std::unique_ptr<PrecisionPolicy> make(double sparsity, const std::string& allocation = "uniform",
                                      double step = 0.01) {
  return Registry<PrecisionPolicy>::get().make("teal", {{"sparsity", {sparsity, "file.toml:9"}},
                                                        {"allocation", {allocation, "file.toml:10"}},
                                                        {"step", {step, "file.toml:11"}}});
}

void prepare(PrecisionPolicy& policy, const QuantizedLinear& layer, const std::string& id = "layer") {
  const MatrixBuffer<float> unread(layer.out(), layer.in());
  policy.prepare({id, unread, stats()}, layer);
  policy.allot();
}

MatrixBuffer<Level> choose(const PrecisionPolicy& policy, Matrix<const float> x,
                           const std::string& id = "layer") {
  MatrixBuffer<Level> levels(x.rows, x.cols);
  const std::vector<Step> steps(static_cast<size_t>(x.rows), {Phase::decode, 0, 0});
  EXPECT_EQ(policy.choose(id, steps, x, levels).levels.data, levels.data());
  return levels;
}

double skipped(const PrecisionPolicy& policy, const std::string& id = "layer") {
  const MatrixBuffer<Level> levels = choose(policy, activations(), id);
  return static_cast<double>(std::count(levels.data(), levels.data() + levels.size(), Level{0})) /
         static_cast<double>(levels.size());
}

TEST(Teal, SkipsTheShareThatItIsToldOnItsCalibrationData) {
  const auto layer = dense();
  for (const double sparsity : {0.0, 0.1, 0.25, 0.4, 0.5, 0.7, 0.9, 0.95}) {
    const auto policy = make(sparsity);
    prepare(*policy, *layer);
    EXPECT_NEAR(skipped(*policy), sparsity, 0.005);
  }
}

TEST(Teal, OneThresholdPartsTheSkippedFromTheRead) {
  for (const auto& [layer, full] :
       {std::pair{dense(), Level{16}}, {nested({0, 8}), Level{8}}, {nested({0, 2, 4, 6}), Level{6}}}) {
    const auto policy = make(0.4);
    prepare(*policy, *layer);
    const MatrixBuffer<Level> levels = choose(*policy, activations());
    float most_skipped = 0, least_read = HUGE_VALF;
    for (int64_t i = 0; i < levels.size(); ++i) {
      const float magnitude = std::abs(activations().data()[i]);
      if (levels.data()[i] == 0)
        most_skipped = std::max(most_skipped, magnitude);
      else
        least_read = std::min(least_read, magnitude);
      ASSERT_TRUE(levels.data()[i] == 0 || levels.data()[i] == full);
    }
    EXPECT_LT(most_skipped, least_read);
  }
}

TEST(Teal, AtZeroOnlyInputsOfZeroAreSkipped) {
  const auto layer = dense();
  const auto policy = make(0.0);
  prepare(*policy, *layer);
  MatrixBuffer<float> x = MatrixBuffer<float>::zeroed(1, kIn);
  x.row(0)[3] = -1e-30f;
  x.row(0)[4] = std::nanf("");  // must show in the output
  const MatrixBuffer<Level> levels = choose(*policy, x);
  for (int64_t i = 0; i < kIn; ++i) EXPECT_EQ(levels.row(0)[i], i == 3 || i == 4 ? 16 : 0) << i;
}

// A block of layers of which each adds weight * s^2 / (1 - s) to the error at sparsity s.
struct FakeLayer {
  std::string id;
  int64_t out;
  double weight;
};

class FakeTrial final : public BlockTrial {
 public:
  FakeTrial(std::vector<FakeLayer> block, std::function<double(const std::string&)> sparsity)
      : block_(std::move(block)), sparsity_(std::move(sparsity)) {
    for (const FakeLayer& layer : block_) layers_.push_back(layer.id);
  }
  const std::vector<std::string>& layers() const override { return layers_; }
  double error() override {
    ++trials;
    double sum = 0;
    for (const FakeLayer& layer : block_) sum += layer.weight * harm(sparsity_(layer.id));
    return sum;
  }
  static double harm(double sparsity) { return sparsity * sparsity / (1 - sparsity); }

  int trials = 0;

 private:
  std::vector<FakeLayer> block_;
  std::vector<std::string> layers_;
  std::function<double(const std::string&)> sparsity_;
};

// Sparsity of each layer after tuning. `trials`: how often the block was tried.
std::vector<double> tuned(const std::vector<FakeLayer>& block, PrecisionPolicy& policy,
                          int* trials = nullptr) {
  for (const FakeLayer& layer : block) prepare(policy, *dense(layer.out), layer.id);
  EXPECT_TRUE(policy.tunes());
  FakeTrial trial(block, [&](const std::string& id) { return skipped(policy, id); });
  policy.tune(trial);
  if (trials) *trials = trial.trials;
  std::vector<double> result;
  for (const FakeLayer& layer : block) result.push_back(skipped(policy, layer.id));
  return result;
}

TEST(TealGreedy, FindsTheBestSplitOfTwoLayers) {
  const std::vector<FakeLayer> block{{"much", 16, 20.0}, {"little", 48, 1.0}};
  constexpr double kTarget = 0.4;
  const auto error = [&](double much, double little) {
    return block[0].weight * FakeTrial::harm(much) + block[1].weight * FakeTrial::harm(little);
  };
  const auto policy = make(kTarget, "greedy");
  const std::vector<double> found = tuned(block, *policy);
  EXPECT_NEAR((16 * found[0] + 48 * found[1]) / 64, kTarget, 0.005);

  double best = HUGE_VAL, best_much = 0;
  for (double much = 0; much <= 0.95; much += 0.001) {
    const double little = (64 * kTarget - 16 * much) / 48;
    if (little < 0 || little > 0.95) continue;
    if (const double each = error(much, little); each < best) best = each, best_much = much;
  }
  EXPECT_NEAR(found[0], best_much, 0.05) << "one raise of the smaller layer is 0.04";
  EXPECT_LT(error(found[0], found[1]), 1.05 * best);
  EXPECT_GT(error(kTarget, kTarget), 2 * best) << "uniform is far from it, or this test shows nothing";
}

TEST(TealGreedy, StepsAreInverseToALayersSize) {
  // The first raises go to the layer that does not matter, 0.02 of the block at a time: 0.02 * 4 and 0.02 *
  // 4/3.
  int trials = 0;
  EXPECT_NEAR(tuned({{"small", 16, 0.0}, {"large", 48, 1.0}}, *make(0.02, "greedy", 0.02), &trials)[0], 0.08,
              0.005);
  EXPECT_EQ(trials, 1 + 2) << "the dense block, then each layer's raise";
  EXPECT_NEAR(tuned({{"small", 16, 1.0}, {"large", 48, 0.0}}, *make(0.02, "greedy", 0.02))[1], 0.08 / 3,
              0.005);
}

TEST(TealGreedy, NoLayerIsSkippedAltogether) {
  const std::vector<double> found =
      tuned({{"harmless", 8, 0.0}, {"other", 56, 1.0}}, *make(0.5, "greedy", 0.05));
  EXPECT_NEAR(found[0], 0.95, 0.005);
  EXPECT_NEAR((8 * found[0] + 56 * found[1]) / 64, 0.5, 0.005);
  const std::vector<double> all = tuned({{"a", 8, 1.0}, {"b", 56, 1.0}}, *make(0.95, "greedy", 0.05));
  EXPECT_NEAR(all[0], 0.95, 0.005);
  EXPECT_NEAR(all[1], 0.95, 0.005);
}

TEST(TealGreedy, UniformDoesNotTune) { EXPECT_FALSE(make(0.5)->tunes()); }

TEST(Teal, RefusesLayersThatCannotSkip) {
  EXPECT_REFUSED(prepare(*make(0.5), *nested({2, 4, 8}), "model.layers.1.mlp.up_proj"),
                 "model.layers.1.mlp.up_proj", "level 0", "not stored", "2, 4, 8");
  EXPECT_REFUSED(prepare(*make(0.5), *quantize("rtn", {{"bits", {4, ""}}})), "level 0", "group_affine", "4");
  EXPECT_REFUSED(make(0.96), "file.toml:9", "sparsity = 0.96", "0 to 0.95");
  EXPECT_REFUSED(make(-0.1), "file.toml:9", "sparsity = -0.1", "0 to 0.95");
  EXPECT_REFUSED(make(0.5, "global"), "file.toml:10", "'global'", "uniform, greedy");
}

TEST(Teal, NeedsTheHistogram) {
  EXPECT_EQ(make(0.5)->needs(), CollectorNames{"magnitude_histogram"});
  const LayerStats nothing;
  const MatrixBuffer<float> weight = testing::random_matrix(24, kIn, 3);
  EXPECT_REFUSED(make(0.5)->prepare({"layer", weight, nothing}, *dense()), "'magnitude_histogram'",
                 "not collected");
}

}  // namespace
}  // namespace grinqh
