#include "calib/calibrate.h"

#include "core/progress.h"
#include "embedded_models.h"
#include "idle_accelerator.h"
#include "model_files.h"
#include "numbers.h"
#include "quant/log_histogram.h"

namespace grinqh {
namespace {

using testing::embedded_model;

constexpr const char* kHistogram = "magnitude_histogram";

class Calibration : public ::testing::Test {
 protected:
  Calibration() { Progress::set_enabled(false); }

  const testing::EmbeddedModel& embedded_ = embedded_model("llama-tiny");
  const Transformer& transformer_ = embedded_.transformer;
  // Coarse, so that quantized and float inputs differ.
  std::unique_ptr<Quantizer> quantizer_ = Registry<Quantizer>::get().make("rtn", {{"bits", {2, ""}}});

  CalibrationPlan plan(CalibrationInputs inputs = CalibrationInputs::quantized) const {
    CalibrationPlan plan;
    plan.windows = embedded_.windows(3, 40);
    plan.inputs = inputs;
    plan.kept = {kHistogram};
    return plan;
  }

  // The inputs of one layer, window by window, with float weights in its own block and what `earlier` does in
  // the blocks before it: counted value by value.
  std::vector<float> counted(const std::string& id, LinearExecutor& earlier) const {
    std::vector<float> counts;
    const Matrix<const int32_t> windows = plan().windows;
    for (int64_t w = 0; w < windows.rows; ++w) {
      const Batch batch = Batch::of_windows(windows.rows_between(w, w + 1), windows.cols);
      MatrixBuffer<float> x = transformer_.embed(batch);
      for (int64_t block = 0; block < transformer_.blocks(); ++block) {
        FloatLinears linears;
        MatrixBuffer<float> copy(x.rows(), x.cols());
        std::copy_n(x.data(), x.size(), copy.data());
        ObservedLinears observed(linears, [&](const LinearWeights& linear, Matrix<const float> in) {
          if (linear.id != id) return;
          counts.resize(static_cast<size_t>(in.cols * LogHistogram::kBins));
          for (int64_t t = 0; t < in.rows; ++t)
            for (int64_t i = 0; i < in.cols; ++i)
              ++counts[static_cast<size_t>(i * LogHistogram::kBins + LogHistogram::bin(std::abs(in(t, i))))];
        });
        transformer_.run_block(block, batch, copy, observed, nullptr);
        earlier.begin_batch(batch.steps);
        transformer_.run_block(block, batch, x, earlier, nullptr);
      }
    }
    return counts;
  }

  static std::vector<float> collected(const Calibrated& calibrated, const std::string& id) {
    const std::span<const float> values = calibrated.stats.at(id)->at(kHistogram);
    return {values.begin(), values.end()};
  }
};

const std::vector<std::string> kLayers{"model.layers.0.self_attn.v_proj", "model.layers.0.mlp.down_proj",
                                       "model.layers.3.self_attn.o_proj", "model.layers.5.mlp.up_proj",
                                       "model.layers.7.self_attn.q_proj"};

TEST_F(Calibration, CollectsTheInputsOfFloatBlocks) {
  const Calibrated calibrated =
      calibrate_and_quantize(transformer_, *quantizer_, plan(CalibrationInputs::floating));
  FloatLinears linears;
  for (const std::string& id : kLayers) {
    EXPECT_EQ(collected(calibrated, id), counted(id, linears)) << id;
    EXPECT_EQ(calibrated.stats.at(id)->tokens, 3 * 40);
  }
}

TEST_F(Calibration, CollectsTheInputsThatQuantizedBlocksGive) {
  const Calibrated calibrated = calibrate_and_quantize(transformer_, *quantizer_, plan());
  QuantizedLinears linears(calibrated.model, nullptr);
  for (const std::string& id : kLayers) EXPECT_EQ(collected(calibrated, id), counted(id, linears)) << id;
}

TEST_F(Calibration, LayersThatAreQuantizedBesideEachOtherAreTheSame) {
  for (const CalibrationInputs inputs : {CalibrationInputs::quantized, CalibrationInputs::floating}) {
    const Calibrated one_by_one = calibrate_and_quantize(transformer_, *quantizer_, plan(inputs));
    const AcceleratorScope scope(std::make_shared<testing::IdleAccelerator>());
    const Calibrated together = calibrate_and_quantize(transformer_, *quantizer_, plan(inputs));
    ASSERT_EQ(together.model.layers.size(), 7u * 8);
    for (const auto& [id, layer] : one_by_one.model.layers) {
      EXPECT_EQ(copy_buffers(*together.model.layers.at(id)), copy_buffers(*layer)) << id;
      EXPECT_EQ(collected(together, id), collected(one_by_one, id)) << id;
      EXPECT_TRUE(together.derived.contains(id));
    }
  }
}

TEST_F(Calibration, QuantizedAndFloatInputsDifferAfterTheFirstBlock) {
  const Calibrated quantized = calibrate_and_quantize(transformer_, *quantizer_, plan());
  const Calibrated floating =
      calibrate_and_quantize(transformer_, *quantizer_, plan(CalibrationInputs::floating));
  for (const auto& [id, stats] : quantized.stats) {
    const bool first = id.starts_with("model.layers.0.");
    EXPECT_EQ(collected(quantized, id) == collected(floating, id), first) << id;
  }
}

TEST_F(Calibration, LayersThatShareAnInputShareItsStatistics) {
  const Calibrated calibrated = calibrate_and_quantize(transformer_, *quantizer_, plan());
  const auto of = [&](const std::string& name) {
    return calibrated.stats.at("model.layers.2." + name).get();
  };
  EXPECT_EQ(calibrated.stats.size(), 7u * 8);
  EXPECT_EQ(of("self_attn.q_proj"), of("self_attn.k_proj"));
  EXPECT_EQ(of("self_attn.q_proj"), of("self_attn.v_proj"));
  EXPECT_EQ(of("mlp.gate_proj"), of("mlp.up_proj"));
  EXPECT_NE(of("self_attn.q_proj"), of("self_attn.o_proj"));
  EXPECT_NE(of("self_attn.q_proj"), of("mlp.gate_proj"));
  EXPECT_NE(of("mlp.gate_proj"), of("mlp.down_proj"));
}

TEST_F(Calibration, QuantizesTheLayersOfThePatternsAlone) {
  CalibrationPlan some = plan();
  some.layers = {"*.mlp.up_proj", "model.layers.3.*"};
  const Calibrated calibrated = calibrate_and_quantize(transformer_, *quantizer_, some);
  std::set<std::string> expected;
  for (const BlockWeights& block : embedded_.model.blocks)
    for (const auto& layers : inputs_of(block))
      for (const LinearWeights* layer : layers)
        if (layer->id.ends_with(".mlp.up_proj") || layer->id.starts_with("model.layers.3."))
          expected.insert(layer->id);
  EXPECT_EQ(expected.size(), 7u + 7u);
  std::set<std::string> found;
  for (const auto& [id, layer] : calibrated.model.layers) found.insert(id);
  EXPECT_EQ(found, expected);
  // Layers that stay float are float in the blocks that later ones see.
  QuantizedLinears linears(calibrated.model, nullptr);
  EXPECT_EQ(collected(calibrated, kLayers[3]), counted(kLayers[3], linears));
}

// Asks for one statistic and keeps what it saw.
class Asking final : public Quantizer {
 public:
  explicit Asking(const Quantizer& inner) : inner_(inner) {}
  CollectorNames needs() const override { return {"second_moment"}; }
  std::unique_ptr<QuantizedLinear> quantize(const LinearTask& task) const override {
    seen.emplace(task.id, task.stats.values.size());
    trace += static_cast<double>(task.stats.at("second_moment")[0]);
    return inner_.quantize(task);
  }
  mutable std::map<std::string, size_t> seen;  // statistics by layer
  mutable double trace = 0;

 private:
  const Quantizer& inner_;
};

TEST_F(Calibration, TheQuantizersStatisticsAreDroppedAndThePolicysKept) {
  Asking asking(*quantizer_);
  const Calibrated calibrated = calibrate_and_quantize(transformer_, asking, plan());
  EXPECT_EQ(asking.seen.size(), 7u * 8);
  for (const auto& [id, statistics] : asking.seen) EXPECT_EQ(statistics, 2u) << id;
  EXPECT_GT(asking.trace, 0);
  for (const auto& [id, stats] : calibrated.stats) {
    EXPECT_EQ(stats->values.size(), 1u) << id;
    EXPECT_EQ(stats->tokens, 3 * 40);
  }
  // What else is collected changes nothing.
  const Calibrated alone = calibrate_and_quantize(transformer_, *quantizer_, plan());
  for (const std::string& id : kLayers) EXPECT_EQ(collected(calibrated, id), collected(alone, id)) << id;
  CalibrationPlan nothing_kept = plan();
  nothing_kept.kept.clear();
  EXPECT_TRUE(calibrate_and_quantize(transformer_, asking, nothing_kept).stats.empty());
}

TEST_F(Calibration, DoesNotDependOnThreads) {
  std::vector<Calibrated> results;
  for (const int count : {1, 3}) {
    const testing::Threads threads(count);
    results.push_back(calibrate_and_quantize(transformer_, *quantizer_, plan()));
  }
  for (const auto& [id, layer] : results[0].model.layers) {
    EXPECT_EQ(copy_buffers(*layer), copy_buffers(*results[1].model.layers.at(id)));
    EXPECT_EQ(collected(results[0], id), collected(results[1], id)) << id;
  }
}

// Keeps what it gets of some blocks.
class PartialStore final : public StatisticsStore {
 public:
  explicit PartialStore(int64_t every) : every_(every) {}
  CalibrationStats load(int64_t block) const override { return blocks[block]; }
  void save(int64_t block, const CalibrationStats& stats) const override {
    ++saved;
    if (block % every_ == 0) add_statistics(stats, blocks[block]);
  }
  mutable int saved = 0;
  mutable std::map<int64_t, CalibrationStats> blocks;

 private:
  int64_t every_;
};

TEST_F(Calibration, BlocksThatAStoreKnowsAreNotRunAgain) {
  CalibrationPlan first = plan(CalibrationInputs::floating);
  first.also = {"max_magnitude"};
  const PartialStore all(1), some(3);
  for (const PartialStore* store : {&all, &some}) {
    first.store = store;
    calibrate_and_quantize(transformer_, *quantizer_, first);
    EXPECT_EQ(store->saved, 8);
    EXPECT_TRUE(store->load(3).begin()->second->has("max_magnitude")) << "collected for a later method";
  }
  CalibrationPlan second = plan(CalibrationInputs::floating);
  second.kept = {kHistogram, "max_magnitude"};
  const Calibrated direct = calibrate_and_quantize(transformer_, *quantizer_, second);
  for (const PartialStore* store : {&all, &some}) {
    second.store = store;
    const Calibrated found = calibrate_and_quantize(transformer_, *quantizer_, second);
    EXPECT_EQ(store->saved, store == &all ? 8 : 8 + 5) << "blocks 0, 3 and 6 are known";
    for (const auto& [id, stats] : direct.stats)
      for (const std::string& name : second.kept)
        EXPECT_TRUE(std::ranges::equal(found.stats.at(id)->at(name), stats->at(name))) << id << " " << name;
  }
}

TEST_F(Calibration, WithoutCollectorsNoWindowsAreNeeded) {
  CalibrationPlan nothing;
  const Calibrated calibrated = calibrate_and_quantize(transformer_, *quantizer_, nothing);
  EXPECT_EQ(calibrated.model.layers.size(), 7u * 8);
  EXPECT_TRUE(calibrated.stats.empty());
}

TEST(Collectors, SecondMomentIsTheMeanOfProducts) {
  const MatrixBuffer<float> x = testing::random_matrix(50, 21, 1);
  const auto collector = Registry<Collector>::get().make("second_moment");
  collector->observe(x.view().rows_between(0, 20));
  collector->observe(x.view().rows_between(20, 50));
  const PlainVector<float> found = collector->finish();
  for (int64_t i = 0; i < 21; ++i)
    for (int64_t j = 0; j < 21; ++j) {
      double mean = 0;
      for (int64_t t = 0; t < 50; ++t)
        mean += static_cast<double>(x.view()(t, i)) * static_cast<double>(x.view()(t, j)) / 50;
      EXPECT_NEAR(found[static_cast<size_t>(i * 21 + j)], mean, 2e-6);
    }
}

// A statistic that overflowed.
class Infinite final : public Collector {
 public:
  struct Options {
    template <class V>
    void fields(V&) {}
  };
  explicit Infinite(Options) {}
  void observe(ConstActivations) override {}
  PlainVector<float> finish() override { return {0.0f, HUGE_VALF}; }
};

TEST_F(Calibration, StatisticsThatAreNotFiniteFailNamingTheLayer) {
  static const Register<Collector, Infinite> once{"test_infinite", "not finite"};
  CalibrationPlan infinite = plan();
  infinite.kept = {"test_infinite"};
  try {
    calibrate_and_quantize(transformer_, *quantizer_, infinite);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("model.layers.0.self_attn.q_proj"));
    EXPECT_THAT(error.what(), ::testing::HasSubstr("'test_infinite' is not finite"));
  }
}

}  // namespace
}  // namespace grinqh
