#include <functional>
#include <numeric>

#include "core/registry.h"
#include "model_files.h"
#include "numbers.h"
#include "quant/precision_policy.h"

namespace grinqh {
namespace {

constexpr int64_t kOut = 48, kIn = 96, kTokens = 1500;

// Heavy-tailed activations whose channels differ in size.
const MatrixBuffer<float>& activations() {
  static const MatrixBuffer<float> x = [] {
    MatrixBuffer<float> values = testing::random_matrix(kTokens, kIn, 1);
    Rng rng(2);
    for (int64_t i = 0; i < kIn; ++i) {
      const double size = std::exp(rng.normal());
      for (int64_t t = 0; t < kTokens; ++t)
        values.row(t)[i] *= static_cast<float>(size * std::exp(0.5 * rng.normal()));
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

const MatrixBuffer<float>& weight() {
  static const MatrixBuffer<float> w = testing::random_matrix(kOut, kIn, 3);
  return w;
}

std::unique_ptr<QuantizedLinear> nested(const std::vector<int>& levels) {
  return Registry<Quantizer>::get()
      .make("grinqh", {{"levels", {levels, ""}}, {"feedback_bits", {0, ""}}, {"group", {32, ""}}})
      ->quantize({"layer", weight(), stats()});
}

std::unique_ptr<PrecisionPolicy> make(double bits, const std::string& score = "error",
                                      const std::vector<int>& levels = {}) {
  return Registry<PrecisionPolicy>::get().make("grinqh", {{"bits", {bits, "file.toml:9"}},
                                                          {"score", {score, ""}},
                                                          {"levels", {levels, ""}},
                                                          {"budget", {"uniform", ""}}});
}

void prepare(PrecisionPolicy& policy, const QuantizedLinear& layer) {
  policy.prepare({"layer", weight(), stats()}, layer);
  policy.allot();
}

MatrixBuffer<Level> choose(const PrecisionPolicy& policy, Matrix<const float> x) {
  MatrixBuffer<Level> levels(x.rows, x.cols);
  const std::vector<Step> steps(static_cast<size_t>(x.rows), {Phase::decode, 0, 0});
  EXPECT_EQ(policy.choose("layer", steps, x, levels).levels.data, levels.data());
  return levels;
}

double mean(const MatrixBuffer<Level>& levels) {
  double sum = 0;
  for (int64_t i = 0; i < levels.size(); ++i) sum += levels.data()[i];
  return sum / static_cast<double>(levels.size());
}

const std::vector<std::vector<int>> kLevelSets{{0, 2, 4, 8}, {0, 1, 2, 3, 4, 5, 6, 8}};

TEST(GradedPolicy, ReadsTheBudgetOnItsCalibrationData) {
  for (const std::vector<int>& levels : kLevelSets) {
    const auto layer = nested(levels);
    for (const char* score : {"error", "magnitude"})
      for (const double bits : {2.0, 2.5, 3.0, 3.5, 4.0}) {
        const auto policy = make(bits, score);
        prepare(*policy, *layer);
        EXPECT_NEAR(mean(choose(*policy, activations())), bits, 0.02) << score << " " << levels.size();
      }
  }
}

// x^2 eps_i(b) + lambda b minimized for every token and channel, eps_i from the decoded columns.
class LeastCost {
 public:
  LeastCost(const QuantizedLinear& layer, const std::vector<int>& levels) : levels_(levels) {
    for (const int level : levels) {
      const MatrixBuffer<float> decoded = layer.dequantize(static_cast<Level>(level));
      std::vector<double>& error = errors_.emplace_back(kIn, 0.0);
      for (int64_t n = 0; n < kOut; ++n)
        for (int64_t i = 0; i < kIn; ++i)
          error[static_cast<size_t>(i)] +=
              std::pow(static_cast<double>(weight().row(n)[i]) - static_cast<double>(decoded.row(n)[i]), 2);
    }
  }

  MatrixBuffer<Level> at(double lambda) const {
    MatrixBuffer<Level> chosen(kTokens, kIn);
    for (int64_t t = 0; t < kTokens; ++t)
      for (int64_t i = 0; i < kIn; ++i) {
        const auto x = static_cast<double>(activations().row(t)[i]);
        double best = HUGE_VAL;
        for (size_t k = 0; k < levels_.size(); ++k)
          if (const double cost = x * x * errors_[k][static_cast<size_t>(i)] + lambda * levels_[k];
              cost < best) {
            best = cost;
            chosen.row(t)[i] = static_cast<Level>(levels_[k]);
          }
      }
    return chosen;
  }

 private:
  std::vector<int> levels_;
  std::vector<std::vector<double>> errors_;
};

TEST(GradedPolicy, IsTheLeastCostForSomePriceOfABit) {
  for (const std::vector<int>& levels : kLevelSets) {
    const auto layer = nested(levels);
    const LeastCost least_cost(*layer, levels);
    for (const double bits : {2.0, 3.0, 4.0}) {
      const auto policy = make(bits);
      prepare(*policy, *layer);
      const MatrixBuffer<Level> found = choose(*policy, activations());
      // The price at which as many bits are read; the more a bit costs, the fewer.
      double low = 1e-9, high = 1e9;
      for (int step = 0; step < 50; ++step) {
        const double middle = std::sqrt(low * high);
        (mean(least_cost.at(middle)) > mean(found) ? low : high) = middle;
      }
      const MatrixBuffer<Level> expected = least_cost.at(std::sqrt(low * high));
      int64_t different = 0;
      for (int64_t i = 0; i < found.size(); ++i) different += found.data()[i] != expected.data()[i];
      EXPECT_LT(different, found.size() / 5000) << bits << " bits, " << levels.size() << " levels";
    }
  }
}

TEST(GradedPolicy, ByMagnitudeLargerInputsNeverReadLess) {
  const auto layer = nested(kLevelSets[1]);
  const auto policy = make(3.0, "magnitude");
  prepare(*policy, *layer);
  const MatrixBuffer<Level> levels = choose(*policy, activations());
  std::vector<std::pair<float, Level>> all;
  for (int64_t i = 0; i < levels.size(); ++i)
    all.emplace_back(std::abs(activations().data()[i]), levels.data()[i]);
  std::ranges::sort(all);
  for (size_t i = 1; i < all.size(); ++i) ASSERT_LE(all[i - 1].second, all[i].second) << all[i].first;
  EXPECT_EQ(all.front().second, 0);
  EXPECT_EQ(all.back().second, 8);
}

TEST(GradedPolicy, MoreBitsNeverLowerALevel) {
  const auto layer = nested(kLevelSets[0]);
  const auto few = make(2.0), many = make(3.0);
  prepare(*few, *layer);
  prepare(*many, *layer);
  const MatrixBuffer<Level> a = choose(*few, activations()), b = choose(*many, activations());
  for (int64_t i = 0; i < a.size(); ++i) ASSERT_LE(a.data()[i], b.data()[i]);
}

TEST(GradedPolicy, LevelSetsNeedNoZero) {
  const std::vector<int> levels{2, 4, 8};
  const auto layer = nested(levels);
  for (const double bits : {2.5, 3.5}) {
    const auto policy = make(bits);
    prepare(*policy, *layer);
    const MatrixBuffer<Level> chosen = choose(*policy, activations());
    EXPECT_NEAR(mean(chosen), bits, 0.02);
    for (int64_t i = 0; i < chosen.size(); ++i) ASSERT_GE(chosen.data()[i], 2);
  }
}

TEST(GradedPolicy, UsesTheLevelsThatItIsGiven) {
  const auto layer = nested(kLevelSets[1]);
  const auto policy = make(3.0, "error", {0, 3, 6});
  prepare(*policy, *layer);
  const MatrixBuffer<Level> chosen = choose(*policy, activations());
  EXPECT_NEAR(mean(chosen), 3.0, 0.02);
  for (int64_t i = 0; i < chosen.size(); ++i) ASSERT_EQ(chosen.data()[i] % 3, 0);
}

TEST(GradedPolicy, ReadsEverythingOrNothingAtTheEndsOfTheLevels) {
  const auto layer = nested(kLevelSets[0]);
  const auto all = make(8.0), nothing = make(0.0);
  prepare(*all, *layer);
  prepare(*nothing, *layer);
  EXPECT_NEAR(mean(choose(*all, activations())), 8.0, 1e-3);
  EXPECT_NEAR(mean(choose(*nothing, activations())), 0.0, 1e-3);
  const auto zeros = MatrixBuffer<float>::zeroed(2, kIn);
  EXPECT_EQ(mean(choose(*all, zeros)), 0.0) << "an input of zero needs no weight";
}

std::unique_ptr<PrecisionPolicy> make_with(Settings settings) {
  settings.emplace("bits", Setting{3.0, ""});
  settings.emplace("budget", Setting{"uniform", ""});
  return Registry<PrecisionPolicy>::get().make("grinqh", settings);
}

TEST(GradedPolicy, ExactSelectionReadsTheSameForEveryToken) {
  const auto layer = nested(kLevelSets[1]);
  const auto policy = make_with({{"selection", {"exact", ""}}}), threshold = make(3.0);
  prepare(*policy, *layer);
  prepare(*threshold, *layer);
  const MatrixBuffer<Level> exact = choose(*policy, activations()),
                            floating = choose(*threshold, activations());
  double widest = 0;
  for (int64_t t = 0; t < kTokens; ++t) {
    const auto mean_of = [&](const MatrixBuffer<Level>& levels) {
      const std::span<const Level> row = levels.view().row_span(t);
      return std::accumulate(row.begin(), row.end(), 0.0) / kIn;
    };
    EXPECT_LE(mean_of(exact), 3.0 + 0.02);
    EXPECT_GE(mean_of(exact), 3.0 - 8.0 / kIn - 0.02) << "at most one channel's levels are left over";
    widest = std::max(widest, std::abs(mean_of(floating) - 3.0));
  }
  EXPECT_GT(widest, 0.2) << "thresholds let tokens differ";
}

TEST(GradedPolicy, FirstTokensReadEverything) {
  const auto layer = nested(kLevelSets[0]);
  const auto policy = make_with({{"full_tokens", {2, ""}}}), plain = make(3.0);
  prepare(*policy, *layer);
  prepare(*plain, *layer);
  const Matrix<const float> x = activations().view().rows_between(0, 4);
  std::vector<Step> steps;
  for (int32_t position : {5, 0, 2, 1}) steps.push_back({Phase::decode, position, 0});
  MatrixBuffer<Level> found(4, kIn), expected(4, kIn);
  policy->choose("layer", steps, x, found);
  plain->choose("layer", steps, x, expected);
  for (int64_t t = 0; t < 4; ++t)
    for (int64_t i = 0; i < kIn; ++i)
      ASSERT_EQ(found.row(t)[i], t == 1 || t == 3 ? Level{8} : expected.row(t)[i]) << t;
}

// E over the calibration tokens of what is not read of the weights, by definition.
TEST(GradedPolicy, OffsetIsTheMeanOfWhatIsNotRead) {
  MatrixBuffer<float> x = testing::random_matrix(kTokens, kIn, 8);
  for (int64_t i = 0; i < x.size(); ++i) x.data()[i] += 0.5f;  // a mean to make up for
  LayerStats all;
  for (const char* name : {"magnitude_histogram", "signed_histogram"}) {
    const auto collector = Registry<Collector>::get().make(name);
    collector->observe(x);
    all.values.emplace(name, collector->finish());
  }
  const auto layer = nested(kLevelSets[1]);
  const auto policy = make_with({{"offset", {true, ""}}});
  policy->prepare({"layer", weight(), all}, *layer);
  policy->allot();
  const MatrixBuffer<Level> levels = choose(*policy, x);
  std::vector<double> expected(kOut, 0.0);
  for (const int level : kLevelSets[1]) {
    const MatrixBuffer<float> decoded = layer->dequantize(static_cast<Level>(level));
    for (int64_t i = 0; i < kIn; ++i) {
      double mean = 0;
      for (int64_t t = 0; t < kTokens; ++t)
        if (levels.row(t)[i] == level) mean += static_cast<double>(x.row(t)[i]) / kTokens;
      for (int64_t n = 0; n < kOut; ++n)
        expected[static_cast<size_t>(n)] +=
            mean * static_cast<double>(weight().row(n)[i] - (level ? decoded.row(n)[i] : 0.0f));
    }
  }
  const std::span<const float> found = policy->offset("layer");
  ASSERT_EQ(found.size(), expected.size());
  double error = 0, size = 0;
  for (size_t n = 0; n < expected.size(); ++n) {
    error += std::pow(static_cast<double>(found[n]) - expected[n], 2);
    size += expected[n] * expected[n];
  }
  EXPECT_LT(std::sqrt(error / size), 0.03) << "bins are a quarter of an octave wide";
  EXPECT_TRUE(make(3.0)->needs().size() == 1 && policy->needs().size() == 2);
}

// Two layers of which one matters a hundred times as much: by its gradient, or by what a block shows.
class TwoLayers : public ::testing::Test {
 protected:
  LayerStats with_gradient(float gradient) const {
    LayerStats all = stats();
    all.values.emplace("output_gradient", PlainVector<float>(kOut, gradient));
    return all;
  }
  double mean_of(const PrecisionPolicy& policy, const std::string& id) const {
    MatrixBuffer<Level> levels(kTokens, kIn);
    policy.choose(id, std::vector<Step>(kTokens, {Phase::decode, 0, 0}), activations(), levels);
    return mean(levels);
  }
  std::unique_ptr<QuantizedLinear> layer_ = nested(kLevelSets[1]);
};

TEST_F(TwoLayers, OnePriceGivesBitsToTheLayerThatTheLossFeels) {
  const auto policy = make_with({{"budget", {"price", ""}}});
  const LayerStats much = with_gradient(100), little = with_gradient(1);
  policy->prepare({"much", weight(), much}, *layer_);
  policy->prepare({"little", weight(), little}, *layer_);
  policy->allot();
  const double a = mean_of(*policy, "much"), b = mean_of(*policy, "little");
  EXPECT_NEAR((a + b) / 2, 3.0, 0.02);
  EXPECT_GT(a, b + 1);
}

class WeightedTrial final : public BlockTrial {
 public:
  WeightedTrial(std::function<double(const std::string&)> bits) : bits_(std::move(bits)) {}
  const std::vector<std::string>& layers() const override { return layers_; }
  // 2^(-2 bits) is how errors fall.
  double error() override { return 100 * std::exp2(-2 * bits_("much")) + std::exp2(-2 * bits_("little")); }

 private:
  std::vector<std::string> layers_{"much", "little"};
  std::function<double(const std::string&)> bits_;
};

TEST_F(TwoLayers, GreedyTakesBitsFromTheLayerThatHurtsLeast) {
  const auto policy = make_with({{"budget", {"greedy", ""}}});
  ASSERT_TRUE(policy->tunes());
  for (const char* id : {"much", "little"}) policy->prepare({id, weight(), stats()}, *layer_);
  policy->allot();
  WeightedTrial trial([&](const std::string& id) { return mean_of(*policy, id); });
  policy->tune(trial);
  const double a = mean_of(*policy, "much"), b = mean_of(*policy, "little");
  EXPECT_NEAR((a + b) / 2, 3.0, 0.03);
  EXPECT_GT(a, b + 1) << "the best split of 6 bits is 3 + log4(10), 3 - log4(10), within the headroom";
}

TEST(GradedPolicy, RefusesBudgetsAndLevelsThatTheLayerDoesNotHave) {
  const auto low = nested({0, 2, 4}), high = nested({2, 4, 8});
  EXPECT_REFUSED(prepare(*make(5.0), *low), "bits = 5", "0 to 4");
  EXPECT_REFUSED(prepare(*make(1.5), *high), "bits = 1.5", "2 to 8");
  EXPECT_REFUSED(prepare(*make(3.0, "error", {0, 4}), *high), "level 0 is not stored", "2, 4, 8");
  EXPECT_REFUSED(prepare(*make(3.5, "error", {4, 8}), *high), "bits = 3.5", "4 to 8");
  EXPECT_REFUSED(make(9.0), "file.toml:9", "bits = 9", "0 to 8");
  EXPECT_REFUSED(make(3.0, "error", {4, 2}), "levels = [4,2]", "ascending");
  EXPECT_REFUSED(make(3.0, "size"), "'size'", "magnitude, error");
}

TEST(GradedPolicy, NeedsTheHistogram) {
  EXPECT_EQ(make(3.0)->needs(), CollectorNames{"magnitude_histogram"});
  const auto layer = nested({0, 8});
  const LayerStats nothing;
  EXPECT_REFUSED(make(3.0)->prepare({"layer", weight(), nothing}, *layer), "'magnitude_histogram'",
                 "not collected");
}

}  // namespace
}  // namespace grinqh
