// Progressive mixed precision decoding (Chen et al., PMPD, arXiv 2410.13461): prompts at a high level,
// decoded tokens at a level that only goes down as the sequence grows. Who says when: fixed or searched
// steps, a classifier of the prompt, chance, or the model's confidence. See PROVENANCE.md.
#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>

#include "core/progress.h"
#include "core/rng.h"
#include "core/rouge.h"
#include "quant/drop_labels.h"
#include "quant/precision_ladder.h"
#include "quant/prompt_classifier.h"
#include "quant/sequence_schedules.h"

namespace grinqh {
namespace {

struct PmpdOptions {
  std::vector<int> levels = {4, 3};
  std::string base;
  std::string schedule = "static";
  std::vector<int> steps;
  int64_t length = 256, segments = 3;
  std::vector<double> prior;
  int64_t warmup = 10;
  double deviations = 1;
  std::string text;
  int64_t prompt = 256, windows = 16;
  double tolerance = 0.01;
  int64_t samples = 320, continuation = 64;
  std::string label = "rouge";
  double label_bits = 0;
  int64_t epochs = 10, batch = 32;
  double rate = 1e-3, weight_decay = 0.01, dropout = 0.1;
  int64_t seed = 0;

  template <class V>
  void fields(V& v) {
    v("levels", levels, Range{1, kMaxLevel}, "levels that decoding goes down, from the first");
    v("base", base,
      "a policy with a budget `bits`, which then grades channels: levels are its budgets; empty: every "
      "channel "
      "is read at the level");
    v("schedule", schedule, OneOf{{"static", "learned", "random", "confidence", "phase"}},
      "who says when a level drops: fixed or searched steps, a classifier of the prompt, chance, the model's "
      "confidence; phase: all decoding at the last level");
    v("steps", steps, Range{0, 0x1p31}, "decode steps at which a static schedule drops; empty: searched");
    v("length", length, Range{1, 0x1p24}, "decode steps that the candidates of a drop divide");
    v("segments", segments, Range{1, 64},
      "a drop may come after each of so many equal parts of `length`, or at 0");
    v("prior", prior, Range{0, 0x1p53}, "random: weights of the segments + 1 candidates; empty: equal");
    v("warmup", warmup, Range{2, 0x1p24}, "confidence: scores that set the threshold of a level");
    v("deviations", deviations, Range{-100, 100},
      "confidence: standard deviations above their mean at which a level drops");
    v("text", text, "what search and training use; empty: the calibration text");
    v("prompt", prompt, Range{2, 0x1p24}, "tokens of a prompt there, the longest one for training");
    v("windows", windows, Range{1, 0x1p24}, "static: prompts of the search");
    v("tolerance", tolerance, Range{0, 1e6},
      "perplexity above that of the high level, relative to it, that the search and labels other than "
      "'rouge' allow");
    v("samples", samples, Range{2, 0x1p24}, "learned: prompts to train on");
    v("continuation", continuation, Range{1, 0x1p24},
      "learned: tokens after a prompt that labels are found on, in place of `length`");
    v("label", label, OneOf{{"rouge", "nll", "text", "kl"}},
      "learned: what a drop may not spoil: Rouge-L to the float model's greedy continuation, the likelihood "
      "of "
      "it, that of the text's own, or, for the text's own, the divergence from the float model's "
      "predictions");
    v("label_bits", label_bits, Range{0, kMaxLevel},
      "learned: what labels allow is set so that they read this mean of bits; 0: by tolerance");
    v("epochs", epochs, Range{1, 1e6}, "learned: passes over the balanced prompts");
    v("batch", batch, Range{1, 1e6}, "learned: prompts to a step of Adam");
    v("rate", rate, Range{0, 1}, "learned: learning rate");
    v("weight_decay", weight_decay, Range{0, 10}, "learned: L2 on all parameters");
    v("dropout", dropout, Range{0, 0.9}, "learned: of attention weights");
    v("seed", seed, Range{0, 0x1p53}, "of chance: training, drawn steps");
  }

  void validate() const {
    if (levels.size() < 2 || !std::ranges::is_sorted(levels, std::greater_equal<>()))
      bad_input("levels = {}: allowed are two or more, descending", Json(levels).dump());
    if (!base.empty()) PrecisionLadder(base, precisions());  // refuses a policy that it cannot stand on
    if (!steps.empty() && schedule != "static")
      bad_input("steps = {} have a meaning only with schedule = \"static\"", Json(steps).dump());
    if (!steps.empty() && (steps.size() + 1 != levels.size() || !std::ranges::is_sorted(steps)))
      bad_input("steps = {}: allowed are {}, ascending: one for each drop", Json(steps).dump(),
                levels.size() - 1);
    if (!prior.empty() && schedule != "random")
      bad_input("prior = {} has a meaning only with schedule = \"random\"", Json(prior).dump());
    if (!prior.empty() && (static_cast<int64_t>(prior.size()) != segments + 1 ||
                           std::accumulate(prior.begin(), prior.end(), 0.0) <= 0))
      bad_input("prior = {}: allowed are {} weights, not all 0: of a drop at 0 and after each segment",
                Json(prior).dump(), segments + 1);
  }

  std::vector<Level> precisions() const { return {levels.begin(), levels.end()}; }
  bool continues_text() const { return label == "text" || label == "kl"; }
  int64_t drops() const { return static_cast<int64_t>(levels.size()) - 1; }
  // The candidates for a drop: 0, L/S, 2 (L/S), ..., L. The last one means never, within the length.
  int64_t candidate(int64_t which, int64_t steps_in_all) const {
    return which == segments ? steps_in_all : which * (steps_in_all / segments);
  }
};

// Drops in their order: a level is not left before the one above it. The first decode step is always at the
// top, as its token comes from the prompt's prediction and no decision precedes it in the paper's loop.
std::vector<int64_t> in_order(std::vector<int64_t> drops) {
  int64_t earliest = 1;
  for (int64_t& drop : drops) earliest = drop = std::max(drop, earliest);
  return drops;
}

class Pmpd final : public PrecisionPolicy {
 public:
  using Options = PmpdOptions;

  explicit Pmpd(Options options) : options_(std::move(options)), levels_(options_.precisions()) {
    if (!options_.base.empty()) ladder_.emplace(options_.base, levels_);
    // What has not been found yet is the top level throughout.
    chain_ = {levels_, std::vector<int64_t>(levels_.size() - 1, INT64_MAX)};
    if (!options_.steps.empty()) chain_.drops = in_order({options_.steps.begin(), options_.steps.end()});
    if (options_.schedule == "phase") chain_.drops.assign(levels_.size() - 1, 0);
  }

  CollectorNames needs() const override { return ladder_ ? ladder_->needs() : CollectorNames{}; }

  void prepare(const LinearTask& task, const QuantizedLinear& quantized) override {
    if (ladder_) return ladder_->prepare(task, quantized);
    for (const Level level : levels_) quantized.resolve(level);
  }

  void allot() override {
    if (ladder_) ladder_->allot();
  }
  bool tunes() const override { return ladder_ && ladder_->tunes(); }
  void tune(BlockTrial& trial) override {
    trying_ = true;
    ladder_->tune(trial);
    trying_ = false;
  }

  ScheduleInput schedule_input() const override {
    if (trying_) return ScheduleInput::nothing;
    if (options_.schedule == "confidence") return ScheduleInput::logits;
    return options_.schedule == "random" || learned() ? ScheduleInput::prompt : ScheduleInput::nothing;
  }

  std::unique_ptr<SequenceSchedule> schedule(const Prompt& prompt) const override {
    if (options_.schedule == "confidence")
      return std::make_unique<ConfidenceSchedule>(levels_, options_.warmup, options_.deviations);
    std::vector<int64_t> drops = learned() ? classified(prompt) : drawn(prompt);
    return std::make_unique<FixedSchedule>(Chain{levels_, in_order(std::move(drops))});
  }

  bool looks_at_inputs() const override { return ladder_ && ladder_->looks_at_inputs(); }
  std::vector<const ChannelGrading*> gradings(const std::string& layer) const override {
    return ladder_ ? ladder_->gradings(layer) : std::vector<const ChannelGrading*>();
  }
  const ChannelGrading* grading_of(const std::string& layer, const Step& step) const override {
    return ladder_ ? ladder_->grading_of(layer, step, levels_of({&step, 1}).front()) : nullptr;
  }
  Precision choose(const std::string& layer, std::span<const Step> steps, Matrix<const float> x,
                   Matrix<Level> scratch) const override {
    const std::vector<Level> levels = levels_of(steps);
    if (ladder_) return ladder_->choose(layer, steps, levels, x, scratch);
    if (std::ranges::count(levels, levels[0]) == std::ssize(levels)) return {levels[0], {}};
    for (size_t t = 0; t < steps.size(); ++t)
      std::ranges::fill(scratch.row_span(static_cast<int64_t>(t)), levels[t]);
    return {kFullLevel, scratch};
  }

  ValidationText validation() const override {
    if (searched()) return {options_.text, options_.windows, options_.prompt + options_.length};
    if (learned())
      return {options_.text, options_.samples,
              options_.prompt + (options_.continues_text() ? options_.continuation : 0)};
    return {};
  }

  void plan(ScheduleTrial& trial) override {
    trying_ = true;
    if (searched()) search(trial);
    if (learned()) learn(trial);
    trying_ = false;
  }

  Json findings() const override {
    const Json base = ladder_ ? ladder_->findings() : Json();
    return base.is_null() ? findings_ : Json{{"schedule", findings_}, {"base", base}};
  }

 private:
  bool learned() const { return options_.schedule == "learned"; }
  bool searched() const { return options_.schedule == "static" && options_.steps.empty(); }

  // Prompts' tokens, whose level is not the policy's to say, have that of the first decoded token here.
  std::vector<Level> levels_of(std::span<const Step> steps) const {
    const bool scheduled = schedule_input() != ScheduleInput::nothing;
    const auto level_of = [&](const Step& step) {
      check(!scheduled || step.scheduled != kFullLevel, "a scheduled token knows its level");
      return scheduled ? step.scheduled : chain_.at(step.index);
    };
    const auto decoded = std::ranges::find(steps, Phase::decode, &Step::phase);
    std::vector<Level> levels(steps.size(), decoded == steps.end() ? levels_[0] : level_of(*decoded));
    for (size_t t = 0; t < steps.size(); ++t)
      if (steps[t].phase == Phase::decode) levels[t] = level_of(steps[t]);
    return levels;
  }

  // One step a pair of neighbouring levels, from the prompt's own stream of chance: the same in any company.
  std::vector<int64_t> drawn(const Prompt& prompt) const {
    uint64_t stream = 0;
    for (const int32_t token : prompt.tokens)
      stream = (stream ^ static_cast<uint64_t>(token)) * 0x100000001b3u + 0x9e3779b97f4a7c15u;
    Rng rng(static_cast<uint64_t>(options_.seed), stream);
    std::vector<double> prior = options_.prior;
    if (prior.empty()) prior.assign(static_cast<size_t>(options_.segments) + 1, 1.0);
    std::vector<int64_t> drops;
    for (int64_t k = 0; k < options_.drops(); ++k) {
      double rest = rng.uniform() * std::accumulate(prior.begin(), prior.end(), 0.0);
      int64_t which = 0;
      while (which < options_.segments && (rest -= prior[static_cast<size_t>(which)]) >= 0) ++which;
      drops.push_back(options_.candidate(which, options_.length));
    }
    return drops;
  }

  std::vector<int64_t> classified(const Prompt& prompt) const {
    check(!classifiers_.empty(), "a learned schedule was planned");
    const PromptFeatures features = PromptFeatures::of(prompt.keys, prompt.values, prompt.kv_heads);
    std::vector<int64_t> drops;
    for (const PromptClassifier& classifier : classifiers_)
      drops.push_back(options_.candidate(classifier.classify(features), options_.length));
    return drops;
  }

  // --- static: the least mean of bits within the tolerance ---

  void search(ScheduleTrial& trial) {
    const std::string name =
        "search " +
        Json{options_.levels, options_.base, options_.length, options_.segments, options_.prompt}.dump();
    std::vector<Tokens> prompts, continuations;
    const Matrix<const int32_t> windows = trial.windows();
    for (int64_t w = 0; w < windows.rows; ++w) {
      const int32_t* begin = windows.row(w);
      prompts.emplace_back(begin, begin + options_.prompt);
      continuations.emplace_back(begin + options_.prompt, begin + windows.cols);
    }
    const auto loss = [&](const std::vector<int64_t>& drops) {
      const std::string key = name + Json(drops).dump();
      if (const auto known = trial.load(key)) return known->front();
      chain_.drops = drops;
      const std::vector<double> losses = trial.losses(prompts, continuations);
      const double mean =
          std::accumulate(losses.begin(), losses.end(), 0.0) / static_cast<double>(losses.size());
      trial.save(key, {&mean, 1});
      return mean;
    };
    const std::vector<std::vector<int64_t>> candidates = by_bits();
    const std::vector<int64_t> high(levels_.size() - 1, options_.length);
    const double limit = loss(high) + std::log1p(options_.tolerance);
    std::vector<int64_t> found = high;
    for (const std::vector<int64_t>& drops : candidates)
      if (loss(drops) <= limit) {
        found = drops;
        break;
      }
    chain_.drops = found;
    findings_ = {{"steps", found},
                 {"validation_perplexity", std::exp(loss(found))},
                 {"validation_perplexity_high", std::exp(loss(high))}};
    chain_.drops = found;
  }

  // All ways to place the drops at candidates, the least mean of bits first.
  std::vector<std::vector<int64_t>> by_bits() const {
    std::vector<std::vector<int64_t>> all{{}};
    for (int64_t k = 0; k < options_.drops(); ++k) {
      std::vector<std::vector<int64_t>> longer;
      for (const std::vector<int64_t>& drops : all)
        for (int64_t c = 0; c <= options_.segments; ++c) {
          std::vector<int64_t> more = drops;
          more.push_back(options_.candidate(c, options_.length));
          if (std::ranges::is_sorted(more)) longer.push_back(std::move(more));
        }
      all = std::move(longer);
    }
    for (std::vector<int64_t>& drops : all) drops = in_order(std::move(drops));
    std::ranges::stable_sort(all, {}, [&](const std::vector<int64_t>& drops) {
      return Chain{levels_, drops}.mean_bits(1, options_.length);
    });
    return all;
  }

  // --- learned: one classifier for each pair of neighbouring levels ---

  void learn(ScheduleTrial& trial) {
    const Json data{{"levels", options_.levels},     {"base", options_.base},
                    {"samples", options_.samples},   {"prompt", options_.prompt},
                    {"segments", options_.segments}, {"continuation", options_.continuation},
                    {"label", options_.label}};
    Json training = data;
    training.update({{"tolerance", options_.tolerance},
                     {"label_bits", options_.label_bits},
                     {"epochs", options_.epochs},
                     {"batch", options_.batch},
                     {"rate", options_.rate},
                     {"weight_decay", options_.weight_decay},
                     {"dropout", options_.dropout},
                     {"seed", options_.seed}});
    const std::vector<Tokens> prompts = cut_prompts(trial.windows());
    std::vector<LabelledPrompt> labelled;
    const Chain whole = chain_;
    for (int64_t pair = 0; pair < options_.drops(); ++pair) {
      const auto upper = static_cast<size_t>(pair);
      chain_ = {{levels_[upper], levels_[upper + 1]}, {INT64_MAX}};
      const DropLabels labels(
          measure(trial, prompts, fmt::format("deficits {} pair {} ", data.dump(), pair)));
      const double allowed = allowance(labels);
      const std::string name = fmt::format("classifier {} pair {}", training.dump(), pair);
      auto trained = trial.load(name);
      if (!trained) {
        if (labelled.empty()) labelled = look_at(trial, prompts);
        for (size_t s = 0; s < labelled.size(); ++s)
          labelled[s].label = labels.of(static_cast<int64_t>(s), allowed);
        trained = train(trial, labelled, prompts.size(), name);
      }
      const std::vector<double>& all = *trained;
      classifiers_.emplace_back(
          ClassifierShape{static_cast<int64_t>(all[0]), static_cast<int64_t>(all[1]), options_.segments + 1},
          std::vector<double>(all.begin() + 3, all.end()));
      findings_.push_back({{"levels", chain_.levels},
                           {"allowed_deficit", allowed},
                           {"labels", labels.histogram(allowed)},
                           {"held_out_loss", all[2]}});
    }
    chain_ = whole;
  }

  // Windows cut to random lengths from min(32, n / 2) to all n tokens: the same whatever the seed, so that
  // trainings of different seeds share what their labels are found from.
  std::vector<Tokens> cut_prompts(Matrix<const int32_t> windows) const {
    Rng rng(0);
    std::vector<Tokens> prompts;
    const int64_t least = std::min<int64_t>(32, options_.prompt / 2);
    for (int64_t w = 0; w < windows.rows; ++w) {
      const int64_t length =
          least + static_cast<int64_t>(rng.below(static_cast<uint64_t>(options_.prompt - least + 1)));
      prompts.emplace_back(windows.row(w), windows.row(w) + length);
    }
    return prompts;
  }

  // What each drop costs each prompt against staying at the upper level. [samples, segments]
  MatrixBuffer<double> measure(ScheduleTrial& trial, std::span<const Tokens> prompts,
                               const std::string& name) {
    constexpr size_t kPart = 64;  // prompts between two saves
    const auto drops = static_cast<size_t>(options_.segments);
    MatrixBuffer<double> all(static_cast<int64_t>(prompts.size()), options_.segments);
    Progress progress("labelling prompts", all.rows(), "prompts");
    for (size_t begin = 0; begin < prompts.size(); begin += kPart) {
      const size_t count = std::min(kPart, prompts.size() - begin);
      const std::string key = name + std::to_string(begin);
      std::optional<std::vector<double>> part = trial.load(key);
      if (!part) {
        part = options_.label == "rouge"
                   ? rouge_deficits(trial, prompts.subspan(begin, count))
                   : loss_deficits(trial, prompts.subspan(begin, count), static_cast<int64_t>(begin));
        trial.save(key, *part);
      }
      check(part->size() == count * drops, "a deficit for every prompt and drop");
      std::ranges::copy(*part, all.row(static_cast<int64_t>(begin)));
      progress.advance(static_cast<int64_t>(count));
    }
    return all;
  }

  void drop_at_candidate(int64_t which) {
    chain_.drops = in_order({options_.candidate(which, options_.continuation)});
  }

  std::vector<double> rouge_deficits(ScheduleTrial& trial, std::span<const Tokens> prompts) {
    const auto rounded = [](double score) { return std::round(1000 * score) / 1000; };
    const int64_t count = options_.continuation;
    const std::vector<Tokens> reference =
        trial.continuations(prompts, count, ScheduleTrial::Writer::floating);
    const auto scores = [&](int64_t which) {
      drop_at_candidate(which);
      const std::vector<Tokens> written =
          trial.continuations(prompts, count, ScheduleTrial::Writer::quantized);
      std::vector<double> result;
      for (size_t s = 0; s < prompts.size(); ++s)
        result.push_back(rounded(rouge_l(written[s], reference[s])));
      return result;
    };
    return deficits_of(prompts.size(), scores, -1.0);
  }

  std::vector<double> loss_deficits(ScheduleTrial& trial, std::span<const Tokens> prompts, int64_t first) {
    std::vector<Tokens> reference;
    if (options_.label == "nll") {
      reference = trial.continuations(prompts, options_.continuation, ScheduleTrial::Writer::floating);
    } else {
      for (size_t s = 0; s < prompts.size(); ++s) {
        const int32_t* begin = trial.windows().row(first + static_cast<int64_t>(s)) + prompts[s].size();
        reference.emplace_back(begin, begin + options_.continuation);
      }
    }
    const auto losses = [&](int64_t which) {
      drop_at_candidate(which);
      return options_.label == "kl" ? trial.divergences(prompts, reference)
                                    : trial.losses(prompts, reference);
    };
    return deficits_of(prompts.size(), losses, 1.0);
  }

  // sign * (value at each drop - value without one), sample by sample.
  template <class Measure>
  std::vector<double> deficits_of(size_t samples, const Measure& measure, double sign) const {
    const auto drops = static_cast<size_t>(options_.segments);
    const std::vector<double> high = measure(options_.segments);
    std::vector<double> deficits(samples * drops);
    for (size_t i = 0; i < drops; ++i) {
      const std::vector<double> mixed = measure(static_cast<int64_t>(i));
      for (size_t s = 0; s < samples; ++s) deficits[s * drops + i] = sign * (mixed[s] - high[s]);
    }
    return deficits;
  }

  // What a drop may cost: as the options say it, or so that labels read label_bits.
  double allowance(const DropLabels& labels) const {
    if (options_.label_bits == 0) return options_.label == "rouge" ? 0.0 : std::log1p(options_.tolerance);
    std::vector<double> bits;  // of each label
    for (int64_t c = 0; c <= options_.segments; ++c)
      bits.push_back(Chain{chain_.levels, in_order({options_.candidate(c, options_.length)})}.mean_bits(
          1, std::max<int64_t>(options_.length, 2)));
    return labels.allowance(bits, options_.label_bits);
  }

  std::vector<LabelledPrompt> look_at(ScheduleTrial& trial, std::span<const Tokens> prompts) {
    std::vector<LabelledPrompt> seen(prompts.size());
    trial.observe(prompts, [&](size_t s, const Prompt& prompt) {
      seen[s].features = PromptFeatures::of(prompt.keys, prompt.values, prompt.kv_heads);
      heads_ = prompt.kv_heads;
    });
    return seen;
  }

  // Heads, dim and held-out loss, then the parameters of the classifier. A state is saved after every epoch.
  std::vector<double> train(ScheduleTrial& trial, std::span<const LabelledPrompt> prompts, size_t count,
                            const std::string& name) const {
    check(prompts.size() == count, "features of every prompt");
    const ClassifierShape shape{heads_, prompts.front().features.keys.cols(), options_.segments + 1};
    ClassifierTraining training(shape, prompts,
                                {options_.epochs,
                                 options_.batch,
                                 options_.dropout,
                                 {.rate = options_.rate, .weight_decay = options_.weight_decay},
                                 static_cast<uint64_t>(options_.seed)});
    const std::string state = "training state of " + name;
    if (const auto saved = trial.load(state)) training.restore(*saved);
    Progress progress("training the scheduler", options_.epochs, "epochs");
    progress.advance(training.epochs_done());
    while (!training.finished()) {
      training.run_epoch();
      trial.save(state, training.state());
      progress.advance(1);
    }
    std::vector<double> all{static_cast<double>(shape.heads), static_cast<double>(shape.dim),
                            training.held_out_loss()};
    const PromptClassifier best = training.best();
    all.insert(all.end(), best.parameters().begin(), best.parameters().end());
    trial.save(name, all);
    return all;
  }

  Options options_;
  std::vector<Level> levels_;
  std::optional<PrecisionLadder> ladder_;      // of graded precisions
  Chain chain_;                                // in force where a level depends on the step alone
  bool trying_ = false;                        // within plan()
  int64_t heads_ = 1;                          // of the keys and values seen
  std::vector<PromptClassifier> classifiers_;  // of each pair of levels
  Json findings_;
};

const Register<PrecisionPolicy, Pmpd> plugin{
    "pmpd",
    "one precision a token, going down as the sequence grows: static, learned, random or by confidence"};

}  // namespace
}  // namespace grinqh
