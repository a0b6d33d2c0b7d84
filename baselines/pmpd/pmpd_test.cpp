#include <numeric>

#include "calib/calibrate.h"
#include "calib/schedule_trial.h"
#include "core/registry.h"
#include "embedded_models.h"
#include "eval/evaluator.h"
#include "model_files.h"
#include "numbers.h"
#include "quant/precision_policy.h"
#include "quant/prompt_classifier.h"
#include "runtime/generate.h"
#include "runtime/language_model.h"

namespace grinqh {
namespace {

using Given = std::map<std::string, Json>;

std::unique_ptr<PrecisionPolicy> make(const Given& options) {
  Settings settings;
  for (const auto& [key, value] : options) settings.emplace(key, Setting{value, "file.toml:4"});
  return Registry<PrecisionPolicy>::get().make("pmpd", settings);
}

// Levels of decode steps 0 .. count - 1, where they depend on the step alone.
std::vector<int> levels_of(const PrecisionPolicy& policy, int count) {
  std::vector<Step> steps;
  for (int i = 0; i < count; ++i) steps.push_back({Phase::decode, 50 + i, i});
  const MatrixBuffer<float> x = testing::random_matrix(count, 3, 1);
  MatrixBuffer<Level> scratch(count, 3);
  const Precision chosen = policy.choose("layer", steps, x, scratch);
  std::vector<int> levels;
  for (int i = 0; i < count; ++i)
    levels.push_back(chosen.levels.empty() ? chosen.uniform : chosen.levels(i, 2));
  return levels;
}

// The same for one sequence with a schedule of its own.
std::vector<int> scheduled(const PrecisionPolicy& policy, const Tokens& tokens, int count,
                           const PromptFeatures* features = nullptr) {
  Prompt prompt{tokens, {}, {}, 1};
  if (features) prompt.keys = features->keys, prompt.values = features->values;
  const auto schedule = policy.schedule(prompt);
  std::vector<int> levels;
  for (int i = 0; i < count; ++i) levels.push_back(schedule->level(i, {}));
  return levels;
}

using Levels = std::vector<int>;

TEST(Pmpd, StaticDropsAtItsStepButReadsTheFirstTokenAtTheTop) {
  EXPECT_EQ(levels_of(*make({{"steps", {3}}}), 6), (Levels{4, 4, 4, 3, 3, 3}));
  EXPECT_EQ(levels_of(*make({{"steps", {0}}}), 4), (Levels{4, 3, 3, 3}));
  EXPECT_EQ(levels_of(*make({{"levels", {8, 4, 2}}, {"steps", {2, 4}}}), 6), (Levels{8, 8, 4, 4, 2, 2}));
  EXPECT_EQ(levels_of(*make({{"levels", {8, 4, 2}}, {"steps", {2, 2}}}), 4), (Levels{8, 8, 2, 2}));
}

TEST(Pmpd, PhaseReadsAllDecodedTokensAtTheLowestLevel) {
  EXPECT_EQ(levels_of(*make({{"levels", {4, 3, 2}}, {"schedule", "phase"}}), 3), (Levels{2, 2, 2}));
}

TEST(Pmpd, ABatchMayMixPromptsAndLevels) {
  const auto policy = make({{"steps", {2}}});
  const std::vector<Step> steps{{Phase::prefill, 0, 0}, {Phase::decode, 1, 0}, {Phase::decode, 5, 4}};
  const MatrixBuffer<float> x = testing::random_matrix(3, 2, 1);
  MatrixBuffer<Level> scratch(3, 2);
  const Precision chosen = policy->choose("layer", steps, x, scratch);
  ASSERT_EQ(chosen.levels.rows, 3);
  EXPECT_EQ(chosen.levels(1, 0), 4);
  EXPECT_EQ(chosen.levels(2, 1), 3);
}

TEST(Pmpd, RandomDropsDependOnThePromptAloneAndFollowThePrior) {
  const auto policy = make({{"schedule", "random"}, {"length", 9}, {"prior", {1, 0, 2, 1}}, {"seed", 3}});
  std::vector<int> high_steps(10, 0);  // how often a sequence has so many steps at the top
  for (int32_t s = 0; s < 2000; ++s) {
    const Levels levels = scheduled(*policy, {s, 7, s % 5}, 9);
    EXPECT_EQ(levels, scheduled(*policy, {s, 7, s % 5}, 9));
    ++high_steps[static_cast<size_t>(std::ranges::count(levels, 4))];
  }
  EXPECT_NEAR(high_steps[1], 500, 80);  // a drop at 0: the first token alone is high
  EXPECT_NEAR(high_steps[6], 1000, 90);
  EXPECT_NEAR(high_steps[9], 500, 80);
  EXPECT_EQ(high_steps[1] + high_steps[6] + high_steps[9], 2000);
}

TEST(Pmpd, InAChainOfThreeTheSecondDropNeverComesBeforeTheFirst) {
  const auto policy = make({{"schedule", "random"}, {"levels", {4, 3, 2}}, {"length", 6}});
  bool middle = false, passed_over = false, both = false;
  for (int32_t s = 0; s < 300; ++s) {
    const Levels levels = scheduled(*policy, {s}, 6);
    ASSERT_TRUE(std::ranges::is_sorted(levels, std::greater<>()));
    const auto at = [&](int level) { return std::ranges::count(levels, level); };
    middle |= at(3) > 1;
    passed_over |= at(3) == 0 && at(2) > 0;
    both |= at(3) > 1 && at(2) > 0;
  }
  EXPECT_TRUE(middle && passed_over && both);
}

// Continuations whose loss is made up: `harm` of the prompt for each decode step below the top level.
class MadeUpTrial : public ScheduleTrial {
 public:
  MadeUpTrial(const PrecisionPolicy& policy, MemoryStore& store, int64_t count, int64_t context)
      : policy_(policy), store_(store), windows_(count, context) {
    Rng rng(11);
    for (int64_t i = 0; i < windows_.size(); ++i) windows_.data()[i] = static_cast<int32_t>(rng.below(1000));
  }

  // Even first tokens make prompts that low levels harm.
  static double harm(const Tokens& prompt) { return prompt[0] % 2 == 0 ? 0.04 : 0.001; }
  // The keys mark the second token, and its value tells which kind the prompt is.
  static PromptFeatures features(const Tokens& prompt) {
    const auto tokens = static_cast<int64_t>(prompt.size());
    PromptFeatures made{testing::random_matrix(tokens, 4, static_cast<uint64_t>(prompt[0])),
                        testing::random_matrix(tokens, 4, static_cast<uint64_t>(prompt[1]) + 5000)};
    for (int64_t i = 0; i < 4; ++i) made.keys.row(1)[i] = 4;
    made.values.row(1)[0] += prompt[0] % 2 == 0 ? 4 : -4;
    return made;
  }

  Matrix<const int32_t> windows() const override { return windows_; }
  std::vector<double> losses(std::span<const Tokens> prompts, std::span<const Tokens> rest) override {
    std::vector<double> result;
    for (size_t s = 0; s < prompts.size(); ++s) {
      const Levels levels = levels_of(policy_, static_cast<int>(rest[s].size()));
      double loss = 3;
      for (const int level : levels)
        loss += harm(prompts[s]) * (levels[0] - level) / static_cast<double>(levels.size());
      result.push_back(loss);
    }
    return result;
  }
  std::vector<double> divergences(std::span<const Tokens> prompts, std::span<const Tokens> rest) override {
    return losses(prompts, rest);
  }
  std::vector<Tokens> continuations(std::span<const Tokens> prompts, int64_t count, Writer) override {
    return std::vector<Tokens>(prompts.size(), Tokens(static_cast<size_t>(count), 1));
  }
  void observe(std::span<const Tokens> prompts,
               const std::function<void(size_t, const Prompt&)>& observer) override {
    for (size_t s = 0; s < prompts.size(); ++s) {
      const PromptFeatures made = features(prompts[s]);
      observer(s, {prompts[s], made.keys, made.values, 1});
    }
  }
  std::optional<std::vector<double>> load(std::string_view name) override { return store_.load(name); }
  void save(std::string_view name, std::span<const double> values) override {
    if (saves_left_-- == 0) fail("killed");
    store_.save(name, values);
    last_saved_.assign(values.begin(), values.end());
  }

  int saves_left_ = -1;
  std::vector<double> last_saved_;

 private:
  const PrecisionPolicy& policy_;
  MemoryStore& store_;
  MatrixBuffer<int32_t> windows_;
};

void plan(PrecisionPolicy& policy, MemoryStore& store) {
  const ValidationText wanted = policy.validation();
  MadeUpTrial trial(policy, store, wanted.windows, wanted.context);
  policy.plan(trial);
}

TEST(Pmpd, TheSearchTakesTheFewestBitsWithinTheTolerance) {
  // 40 windows, near half of them harmed by 0.04 a low step: a share s of low steps costs about 0.02 s nats.
  const Given options{{"length", 30}, {"segments", 10}, {"prompt", 4}, {"windows", 40}};
  for (const double tolerance : {0.001, 0.005, 0.01, 0.1}) {
    Given given = options;
    given["tolerance"] = tolerance;
    const auto policy = make(given);
    EXPECT_EQ(levels_of(*policy, 30), Levels(30, 4)) << "before it is planned";
    MemoryStore store;
    MadeUpTrial trial(*policy, store, 40, 34);
    double harm = 0;
    for (int64_t w = 0; w < 40; ++w) harm += MadeUpTrial::harm({trial.windows()(w, 0)}) / 40;
    policy->plan(trial);
    int64_t expected = 30;  // by the made-up loss: (30 - h) / 30 of the steps are low
    for (int64_t h = 30; h >= 0; h -= 3)
      if (harm * static_cast<double>(30 - std::max<int64_t>(h, 1)) / 30 <= std::log1p(tolerance))
        expected = h;
    const Levels levels = levels_of(*policy, 30);
    EXPECT_EQ(std::ranges::count(levels, 4), std::max<int64_t>(expected, 1)) << tolerance;
    EXPECT_EQ(policy->findings()["steps"][0], std::max<int64_t>(expected, 1));
  }
}

const Given kLearned{
    {"schedule", "learned"}, {"length", 9},        {"prompt", 12}, {"samples", 80}, {"continuation", 9},
    {"label", "text"},       {"tolerance", 0.008}, {"epochs", 12}, {"batch", 8},    {"rate", 0.01}};

TEST(Pmpd, LearnedBeatsRandomWherePromptsTellTheHarm) {
  const auto learned = make(kLearned);
  MemoryStore store;
  plan(*learned, store);
  const Json labels = learned->findings()[0]["labels"];
  EXPECT_GT(labels[0], 20);
  EXPECT_GT(labels[3].get<int>() + labels[2].get<int>(), 20);
  for (const int seed : {0, 1, 2}) {
    double loss[2] = {}, bits[2] = {};
    std::vector<Levels> chosen;
    Rng rng(99);
    std::vector<Tokens> prompts;
    for (int s = 0; s < 400; ++s) {
      prompts.push_back({static_cast<int32_t>(rng.below(1000)), static_cast<int32_t>(rng.below(1000)), s});
      const PromptFeatures features = MadeUpTrial::features(prompts.back());
      chosen.push_back(scheduled(*learned, prompts.back(), 9, &features));
    }
    // Random at equal bits: the same drops by the same frequencies.
    std::vector<int> prior(4);
    for (const Levels& levels : chosen) ++prior[static_cast<size_t>(std::ranges::count(levels, 4) / 3)];
    const auto random = make({{"schedule", "random"}, {"length", 9}, {"prior", prior}, {"seed", seed}});
    for (size_t s = 0; s < prompts.size(); ++s) {
      const Levels drawn = scheduled(*random, prompts[s], 9);
      for (const int which : {0, 1})
        for (const int level : which ? drawn : chosen[s]) {
          loss[which] += MadeUpTrial::harm(prompts[s]) * (4 - level);
          bits[which] += level / 3600.0;
        }
    }
    EXPECT_NEAR(bits[0], bits[1], 0.05);
    EXPECT_LT(loss[0], 0.5 * loss[1]) << seed;
  }
}

TEST(Pmpd, TrainingContinuesToTheSameBitsWhereverItWasKilled) {
  std::vector<double> whole;
  {
    const auto policy = make(kLearned);
    MemoryStore store;
    MadeUpTrial trial(*policy, store, 80, 21);
    policy->plan(trial);
    whole = trial.last_saved_;
  }
  for (const int saves : {0, 1, 2, 7, 14}) {
    MemoryStore store;
    const auto killed = make(kLearned), next = make(kLearned);
    MadeUpTrial first(*killed, store, 80, 21), second(*next, store, 80, 21);
    first.saves_left_ = saves;
    EXPECT_THROW(killed->plan(first), Error) << saves;
    next->plan(second);
    EXPECT_EQ(second.last_saved_, whole) << saves;
  }
}

TEST(Pmpd, LabelsCanAimAtAMeanOfBits) {
  for (const double bits : {3.3, 3.6}) {
    Given given = kLearned;
    given["label_bits"] = bits;
    given["epochs"] = 1;
    const auto policy = make(given);
    MemoryStore store;
    plan(*policy, store);
    const Json labels = policy->findings()[0]["labels"];
    // A drop at 0, 3, 6 or 9 of 9 steps, of which the first does not count.
    const double mean = (labels[0].get<double>() * 3 + labels[1].get<double>() * 3.25 +
                         labels[2].get<double>() * 3.625 + labels[3].get<double>() * 4) /
                        80;
    EXPECT_LT(mean, bits + 1e-9);
    EXPECT_GT(mean, 3);
  }
}

TEST(Pmpd, RefusesWhatMakesNoSense) {
  EXPECT_REFUSED(make({{"levels", {3, 4}}}), "file.toml:4", "levels = [3,4]", "descending");
  EXPECT_REFUSED(make({{"levels", {4}}}), "levels = [4]", "two or more");
  EXPECT_REFUSED(make({{"steps", {1, 2}}}), "steps = [1,2]", "allowed are 1");
  EXPECT_REFUSED(make({{"steps", {1}}, {"schedule", "phase"}}), "steps = [1]", "static");
  EXPECT_REFUSED(make({{"prior", {1, 1}}, {"schedule", "random"}}), "prior = [1.0,1.0]", "4 weights");
  EXPECT_REFUSED(make({{"prior", {1, 1, 1, 1}}}), "prior", "random");
  EXPECT_REFUSED(make({{"schedule", "lerned"}}), "lerned", "learned");
}

// --- on an embedded model ---

struct Runnable {
  explicit Runnable(const testing::EmbeddedModel& embedded) : transformer(embedded.transformer) {
    CalibrationPlan plan;
    quantized =
        calibrate_and_quantize(transformer,
                               *Registry<Quantizer>::get().make(
                                   "grinqh", {{"levels", {{2, 3, 4}, ""}}, {"feedback_bits", {0, ""}}}),
                               plan)
            .model;
  }
  const Transformer& transformer;
  QuantizedModel quantized;
};

const Runnable& runnable() {
  static const Runnable made(testing::embedded_model("llama-tiny"));
  return made;
}

constexpr int64_t kPrompt = 10, kContext = 18, kWindows = 2;

Matrix<const int32_t> windows() { return testing::embedded_model("llama-tiny").windows(kWindows, kContext); }

std::vector<std::unique_ptr<PrecisionPolicy>> policies() {
  std::vector<std::unique_ptr<PrecisionPolicy>> all;
  all.push_back(make({{"steps", {4}}}));
  all.push_back(make({{"schedule", "random"}, {"levels", {4, 3, 2}}, {"length", 8}, {"seed", 4}}));
  all.push_back(
      make({{"schedule", "confidence"}, {"levels", {4, 3, 2}}, {"warmup", 2}, {"deviations", 0.2}}));
  all.push_back(make({{"schedule", "learned"},
                      {"length", 8},
                      {"samples", 6},
                      {"prompt", 10},
                      {"continuation", 6},
                      {"epochs", 2},
                      {"label_bits", 3.5},
                      {"label", "nll"}}));
  MatrixBuffer<int32_t> samples(6, 10);
  std::copy_n(windows().data, samples.size(), samples.data());
  MemoryStore store;
  ModelTrial trial(runnable().transformer, runnable().quantized, *all.back(), kFullLevel, samples.view(),
                   store);
  all.back()->plan(trial);
  return all;
}

TEST(PmpdOnAModel, AWindowAtOnceIsTheSameAsTokenByToken) {
  const Transformer& transformer = runnable().transformer;
  for (const auto& policy : policies()) {
    QuantizedLanguageModel model(transformer, runnable().quantized, policy.get());
    const MatrixBuffer<float> together = model.features(Batch::of_windows(windows(), kPrompt));
    for (int64_t w = 0; w < kWindows; ++w) {
      QuantizedLinears linears(runnable().quantized, policy.get());
      KvCache cache = transformer.make_cache(1, kContext);
      const Matrix<const int32_t> window = windows().rows_between(w, w + 1);
      MatrixBuffer<float> last =
          transformer.run(Batch::of_windows(window.cols_between(0, kPrompt), kPrompt), linears, &cache);
      EXPECT_EQ(testing::worst_row_error(together.view().rows_between(w * kContext, w * kContext + kPrompt),
                                         last.view()),
                0.0);
      const int64_t block = transformer.blocks() - 1;
      std::unique_ptr<SequenceSchedule> schedule;
      if (policy->schedule_input() != ScheduleInput::nothing)
        schedule = policy->schedule(
            {std::span(window.row(0), kPrompt), cache.keys(block, 0).rows_between(0, kPrompt).matrix(),
             cache.values(block, 0).rows_between(0, kPrompt).matrix(), transformer.model().config.kv_heads});
      for (int64_t t = kPrompt; t < kContext; ++t) {
        Batch one;
        one.tokens = {window(0, t)};
        one.sequences = {{0, 1, t}};
        Step step{Phase::decode, static_cast<int32_t>(t), static_cast<int32_t>(t - kPrompt)};
        MatrixBuffer<float> logits(1, transformer.vocab());
        transformer.head(last.view().rows_between(last.rows() - 1, last.rows()), logits);
        if (schedule) step.scheduled = schedule->level(step.index, logits.view().row_span(0));
        one.steps = {step};
        last = transformer.run(one, linears, &cache);
        const auto row = static_cast<size_t>(w * kContext + t);
        EXPECT_EQ(testing::worst_row_error(
                      together.view().rows_between(w * kContext + t, w * kContext + t + 1), last.view()),
                  0.0)
            << w << " " << t;
        EXPECT_EQ(model.traffic()->codes[row], linears.traffic().codes[0]);
        EXPECT_EQ(model.traffic()->total[row], linears.traffic().total[0]);
      }
    }
  }
}

TEST(PmpdOnAModel, GeneratesByTheSamePath) {
  const Transformer& transformer = runnable().transformer;
  for (const auto& policy : policies()) {
    QuantizedLinears linears(runnable().quantized, policy.get());
    const auto generated = generate(transformer, linears, windows().cols_between(0, kPrompt), 6, {});
    for (int64_t w = 0; w < kWindows; ++w) {
      Tokens all(windows().row(w), windows().row(w) + kPrompt);
      all.insert(all.end(), generated[static_cast<size_t>(w)].begin(),
                 generated[static_cast<size_t>(w)].end());
      const auto length = static_cast<int64_t>(all.size());
      QuantizedLanguageModel model(transformer, runnable().quantized, policy.get());
      const auto logits = testing::logits_of(
          transformer, model.features(Batch::of_windows({all.data(), 1, length}, kPrompt)));
      for (int64_t t = kPrompt; t < length; ++t)
        EXPECT_EQ(all[static_cast<size_t>(t)], argmax(logits.view().row_span(t - 1))) << w << " " << t;
    }
  }
}

TEST(PmpdOnAModel, ASequenceWithoutAPromptIsRefused) {
  const auto policy = make({{"schedule", "random"}});
  QuantizedLanguageModel model(runnable().transformer, runnable().quantized, policy.get());
  EXPECT_REFUSED(model.features(Batch::of_windows(windows(), 0)), "prompt", "continuation");
}

class Scalars final : public MetricSink {
 public:
  void scalar(std::string_view name, double value, std::string_view) override { values.emplace(name, value); }
  void integer(std::string_view, int64_t) override {}
  void series(std::string_view, std::span<const double>, std::string_view) override {}
  std::map<std::string, double, std::less<>> values;
};

TEST(PmpdOnAModel, BitsAreCountedAsThePaperCountsThemAndOverAllSteps) {
  const auto policy = make({{"steps", {5}}});
  QuantizedLanguageModel model(runnable().transformer, runnable().quantized, policy.get());
  Windows text{MatrixBuffer<int32_t>(2, 24), 1};
  std::copy_n(windows().data, text.tokens.size(), text.tokens.data());
  Scalars sink;
  Registry<Evaluator>::get().make("perplexity")->run({model, nullptr, text, 8, "test"}, sink);
  // Tokens 9 .. 23 follow decode steps 0 .. 14. The paper's log leaves step 0 out: four steps at 4 bits, ten
  // at
  // 3. The evaluator scores token 8 too, with the bits of step 0: six at 4 bits, ten at 3.
  EXPECT_DOUBLE_EQ(sink.values.at("schedule_bits"), 46.0 / 14);
  EXPECT_DOUBLE_EQ(sink.values.at("read_bits_codes"), 54.0 / 16);
  EXPECT_GT(sink.values.at("read_bits_total"), 54.0 / 16);
}

// Of softmax(q) from softmax(p).
double kl(std::span<const float> p, std::span<const float> q) {
  double p_sum = 0, q_sum = 0, sum = 0;
  for (const float logit : p) p_sum += std::exp(static_cast<double>(logit));
  for (const float logit : q) q_sum += std::exp(static_cast<double>(logit));
  for (size_t i = 0; i < p.size(); ++i) {
    const auto expected = static_cast<double>(p[i]), found = static_cast<double>(q[i]);
    sum += std::exp(expected) / p_sum * (expected - std::log(p_sum) - found + std::log(q_sum));
  }
  return sum;
}

TEST(PmpdOnAModel, TrialsAgreeWithTheModel) {
  const auto policy = make({{"steps", {3}}});
  const Transformer& transformer = runnable().transformer;
  MemoryStore store;
  ModelTrial trial(transformer, runnable().quantized, *policy, kFullLevel, windows(), store);
  std::vector<Tokens> prompts, rests;
  for (int64_t w = 0; w < kWindows; ++w) {
    const int64_t prompt = kPrompt + w;  // different lengths
    prompts.emplace_back(windows().row(w), windows().row(w) + prompt);
    rests.emplace_back(windows().row(w) + prompt, windows().row(w) + prompt + 8);
  }
  const std::vector<double> losses = trial.losses(prompts, rests);
  const std::vector<double> divergences = trial.divergences(prompts, rests);
  const auto written = trial.continuations(prompts, 8, ScheduleTrial::Writer::quantized);
  for (size_t w = 0; w < prompts.size(); ++w) {
    const auto prompt = static_cast<int64_t>(prompts[w].size());
    QuantizedLanguageModel model(transformer, runnable().quantized, policy.get());
    const Matrix<const int32_t> tokens(windows().row(static_cast<int64_t>(w)), 1, prompt + 8);
    const auto logits = testing::logits_of(transformer, model.features(Batch::of_windows(tokens, prompt)));
    double loss = 0;
    for (int64_t i = 0; i < 8; ++i) {
      double sum = 0;
      const std::span<const float> row = logits.view().row_span(prompt + i - 1);
      for (const float logit : row) sum += std::exp(static_cast<double>(logit));
      loss += (std::log(sum) - static_cast<double>(row[static_cast<size_t>(tokens(0, prompt + i))])) / 8;
    }
    EXPECT_NEAR(losses[w], loss, 1e-5);
    FloatLinears floating;
    const auto original =
        testing::logits_of(transformer, transformer.run(Batch::of_windows(tokens, prompt), floating));
    double divergence = 0;
    for (int64_t i = 0; i < 8; ++i)
      divergence += kl(original.view().row_span(prompt + i - 1), logits.view().row_span(prompt + i - 1)) / 8;
    EXPECT_NEAR(divergences[w], divergence, 1e-6);
    EXPECT_GT(divergence, 1e-3);
    QuantizedLinears linears(runnable().quantized, policy.get());
    EXPECT_EQ(written[w], generate(transformer, linears, Prompts{prompts[w]}, 8, {})[0]);
  }
  size_t seen = 0;
  trial.observe(prompts, [&](size_t s, const Prompt& prompt) {
    EXPECT_EQ(s, seen++);
    EXPECT_EQ(prompt.tokens.size(), prompts[s].size());
    EXPECT_EQ(prompt.keys.rows, static_cast<int64_t>(prompts[s].size()));
    EXPECT_EQ(prompt.keys.cols, 128);
  });
}

}  // namespace
}  // namespace grinqh
