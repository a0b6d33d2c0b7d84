// Statistics of gradients: against sums over single sequences, and through calibration to who asked for them.
#include "calib/gradients.h"

#include <array>

#include "core/progress.h"
#include "numbers.h"
#include "quant/gradient_collector.h"
#include "runtime/backward.h"
#include "small_model.h"

namespace grinqh {
namespace {

using testing::SmallModel;

constexpr const char* kFisher = "fisher_diagonal";
constexpr const char* kOutput = "output_gradient";

class GradientStatistics : public ::testing::Test {
 protected:
  GradientStatistics() { Progress::set_enabled(false); }

  static MatrixBuffer<int32_t> random_windows(int64_t count, int64_t context) {
    MatrixBuffer<int32_t> windows(count, context);
    Rng rng(7);
    for (int64_t i = 0; i < windows.size(); ++i) windows.data()[i] = static_cast<int32_t>(11 * rng.uniform());
    return windows;
  }

  const SmallModel small_;
  const Transformer& transformer_ = small_.transformer();
  const MatrixBuffer<int32_t> windows_ = random_windows(5, 9);
};

// Sums over windows, each with a backward pass of its own, in float64.
struct BySequence {
  std::map<std::string, std::vector<double>> fisher, output;

  BySequence(const Transformer& transformer, Matrix<const int32_t> windows) {
    const auto predictions = static_cast<double>(windows.cols - 1), count = static_cast<double>(windows.rows);
    for (int64_t w = 0; w < windows.rows; ++w)
      run_backward(transformer, Batch::of_windows(windows.rows_between(w, w + 1), windows.cols),
                   [&](const LinearWeights& linear, Matrix<const float> x, Matrix<const float> dy) {
                     auto& f = fisher[linear.id];
                     auto& o = output[linear.id];
                     f.resize(static_cast<size_t>(dy.cols * x.cols));
                     o.resize(static_cast<size_t>(dy.cols));
                     for (int64_t n = 0; n < dy.cols; ++n) {
                       for (int64_t k = 0; k < x.cols; ++k) {
                         double sum = 0;
                         for (int64_t t = 0; t < x.rows; ++t)
                           sum += static_cast<double>(dy(t, n)) * static_cast<double>(x(t, k));
                         f[static_cast<size_t>(n * x.cols + k)] += std::pow(sum / predictions, 2) / count;
                       }
                       for (int64_t t = 0; t < x.rows; ++t)
                         o[static_cast<size_t>(n)] +=
                             std::pow(static_cast<double>(dy(t, n)), 2) / (predictions * count);
                     }
                   });
  }
};

TEST_F(GradientStatistics, AreSumsOverSequences) {
  const CalibrationStats stats = collect_gradients(transformer_, windows_, {kFisher, kOutput});
  const BySequence expected(transformer_, windows_);
  ASSERT_EQ(stats.size(), 7u * 2);
  for (const auto& [layer, all] : stats) {
    EXPECT_EQ(all->tokens, 5 * 9);
    EXPECT_LT(testing::relative_error(all->at(kFisher), std::span<const double>(expected.fisher.at(layer))),
              1e-6)
        << layer;
    EXPECT_LT(testing::relative_error(all->at(kOutput), std::span<const double>(expected.output.at(layer))),
              1e-6)
        << layer;
  }
}

TEST_F(GradientStatistics, AreOfTheLayersOfThePatternsAlone) {
  const CalibrationStats stats =
      collect_gradients(transformer_, windows_, {kOutput}, {"*.1.mlp.up_proj", "*.q_proj"});
  std::vector<std::string> layers;
  for (const auto& [layer, all] : stats) {
    layers.push_back(layer);
    EXPECT_EQ(all->values.size(), 1u);
  }
  EXPECT_THAT(layers, ::testing::ElementsAre("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj",
                                             "model.layers.1.self_attn.q_proj"));
}

// Enough windows for several batches, the last a part of one.
TEST_F(GradientStatistics, DoNotDependOnThreads) {
  const MatrixBuffer<int32_t> windows = random_windows(75, 60);
  std::vector<CalibrationStats> results;
  for (const int count : {1, 3}) {
    const testing::Threads threads(count);
    results.push_back(collect_gradients(transformer_, windows, {kFisher, kOutput}));
  }
  for (const auto& [layer, all] : results[0]) EXPECT_EQ(all->values, results[1].at(layer)->values) << layer;
}

TEST_F(GradientStatistics, ThatOverflowNameTheLayer) {
  const SmallModel steep(Json::object(), [](const std::string& name, std::vector<float>& values) {
    if (name == "lm_head.weight")
      for (float& value : values) value *= 1e22f;
  });
  try {
    collect_gradients(steep.transformer(), windows_, {kOutput});
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(),
                ::testing::MatchesRegex("model.layers.*: statistic 'output_gradient' is not finite"));
  }
}

class MemoryStore final : public StatisticsStore {
 public:
  CalibrationStats load(int64_t block) const override { return blocks_[static_cast<size_t>(block)]; }
  void save(int64_t block, const CalibrationStats& stats) const override {
    add_statistics(stats, blocks_[static_cast<size_t>(block)]);
    ++saved;
  }
  mutable int saved = 0;

 private:
  mutable std::array<CalibrationStats, 2> blocks_;
};

TEST_F(GradientStatistics, AreCollectedOnceIfThereIsAStore) {
  const MemoryStore store;
  const auto stored = [&](const CollectorNames& names, const std::vector<std::string>& layers) {
    return stored_gradients(transformer_, windows_, names, layers, &store);
  };
  EXPECT_EQ(stored({kOutput}, {"*.1.mlp.*"}).size(), 3u);
  EXPECT_EQ(store.saved, 1);
  const CalibrationStats expected = collect_gradients(transformer_, windows_, {kFisher, kOutput});
  const CalibrationStats all = stored({kFisher, kOutput}, {"*"});
  EXPECT_EQ(store.saved, 3) << "the rest of both blocks";
  const CalibrationStats again = stored({kFisher, kOutput}, {"*"});
  EXPECT_EQ(store.saved, 3);
  for (const CalibrationStats* each : {&all, &again}) {
    ASSERT_EQ(each->size(), 7u * 2);
    for (const auto& [layer, stats] : *each)
      for (const auto& [name, values] : expected.at(layer)->values)
        EXPECT_TRUE(std::ranges::equal(stats->at(name), values)) << layer << " " << name;
  }
}

// Asks for statistics and notes what it is shown.
class Curious final : public Quantizer {
 public:
  explicit Curious(CollectorNames names) : names_(std::move(names)) {}
  CollectorNames needs() const override { return names_; }
  std::unique_ptr<QuantizedLinear> quantize(const LinearTask& task) const override {
    for (const std::string& name : names_) {
      const std::span<const float> values = task.stats.at(name);
      seen[task.id][name].assign(values.begin(), values.end());
    }
    return Registry<Quantizer>::get().make("rtn", {{"group", {0, ""}}})->quantize(task);
  }
  mutable std::map<std::string, std::map<std::string, std::vector<float>>> seen;

 private:
  CollectorNames names_;
};

class GradientsInCalibration : public GradientStatistics {
 protected:
  CalibrationPlan plan(CollectorNames kept = {}) const {
    CalibrationPlan plan;
    plan.windows = windows_;
    plan.kept = std::move(kept);
    plan.gradient_windows = 3;
    plan.gradient_context = 7;
    return plan;
  }
  // Of the first three windows' first seven tokens.
  const CalibrationStats expected_ = collect_gradients(
      transformer_, windows_.view().rows_between(0, 3).cols_between(0, 7), {kFisher, kOutput});
};

TEST_F(GradientsInCalibration, ReachQuantizersBesideStatisticsOfInputs) {
  Curious both({kFisher, "second_moment"}), gradients({kFisher}), inputs({"second_moment"});
  for (Curious* each : {&both, &gradients, &inputs})
    EXPECT_TRUE(calibrate_and_quantize(transformer_, *each, plan()).stats.empty());
  ASSERT_EQ(both.seen.size(), 7u * 2);
  for (const auto& [layer, seen] : both.seen) {
    const std::span<const float> expected = expected_.at(layer)->at(kFisher);
    EXPECT_EQ(seen.at(kFisher), std::vector<float>(expected.begin(), expected.end())) << layer;
    EXPECT_EQ(seen.at(kFisher), gradients.seen.at(layer).at(kFisher)) << layer;
    EXPECT_EQ(seen.at("second_moment"), inputs.seen.at(layer).at("second_moment")) << layer;
  }
}

// Divides by what it sees of gradients and of inputs.
class Surveying final : public Quantizer {
 public:
  bool surveys() const override { return true; }
  CollectorNames survey_needs() const override { return {kOutput, "second_moment"}; }
  void survey(const LinearTask& task) override {
    EXPECT_GT(task.stats.at("second_moment")[0], 0);
    const std::span<const float> gradient = task.stats.at(kOutput);
    seen[task.id].assign(gradient.begin(), gradient.end());
  }
  std::unique_ptr<QuantizedLinear> quantize(const LinearTask& task) const override {
    return Registry<Quantizer>::get().make("rtn", {{"group", {0, ""}}})->quantize(task);
  }
  std::map<std::string, std::vector<float>> seen;
};

TEST_F(GradientsInCalibration, ReachSurveys) {
  Surveying quantizer;
  calibrate_and_quantize(transformer_, quantizer, plan());
  ASSERT_EQ(quantizer.seen.size(), 7u * 2);
  for (const auto& [layer, seen] : quantizer.seen)
    EXPECT_TRUE(std::ranges::equal(seen, expected_.at(layer)->at(kOutput))) << layer;
}

TEST_F(GradientsInCalibration, AreKeptForPoliciesAndLeaveInputsShared) {
  Curious quantizer({kFisher, "second_moment"});
  const Calibrated calibrated =
      calibrate_and_quantize(transformer_, quantizer, plan({kOutput, "magnitude_histogram"}));
  const auto of = [&](const std::string& name) { return calibrated.stats.at("model.layers.1." + name); };
  ASSERT_EQ(calibrated.stats.size(), 7u * 2);
  for (const auto& [layer, all] : calibrated.stats) {
    const std::span<const float> found = all->at(kOutput), expected = expected_.at(layer)->at(kOutput);
    EXPECT_TRUE(std::ranges::equal(found, expected)) << layer;
    EXPECT_REFUSED(all->at(kFisher), "'fisher_diagonal' was not collected");
    EXPECT_REFUSED(all->at("second_moment"), "was not collected");
  }
  const auto histogram = [&](const char* name) { return of(name)->at("magnitude_histogram").data(); };
  EXPECT_EQ(histogram("self_attn.q_proj"), histogram("self_attn.v_proj")) << "one object";
  EXPECT_NE(histogram("self_attn.q_proj"), histogram("self_attn.o_proj"));

  Curious indifferent({});
  const Calibrated gradients_alone = calibrate_and_quantize(transformer_, indifferent, plan({kOutput}));
  ASSERT_EQ(gradients_alone.stats.size(), 7u * 2);
  for (const auto& [layer, all] : gradients_alone.stats)
    EXPECT_EQ(all->values, (std::map<std::string, PlainVector<float>, std::less<>>{
                               {kOutput, expected_.at(layer)->values.at(kOutput)}}));
}

}  // namespace
}  // namespace grinqh
