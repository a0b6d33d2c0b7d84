// The perplexity evaluator on a model of a few tokens, every figure computed here from the definitions.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "core/progress.h"
#include "eval/evaluator.h"
#include "numbers.h"

namespace grinqh {
namespace {

constexpr int64_t kVocab = 5, kContext = 6, kWindows = 3;

// Features are the logits; they depend on the token, its position and the phase it is processed in.
float logit(int32_t token, const Step& step, int64_t v, uint64_t seed) {
  const auto phase = static_cast<uint64_t>(step.phase == Phase::decode);
  Rng rng(seed + phase, static_cast<uint64_t>(token * 1000 + step.position * 10 + v));
  return static_cast<float>(2.0 * rng.normal());
}

int64_t bits_of(int32_t token, const Step& step) {
  return step.phase == Phase::prefill ? 800 : 100 + 10 * token + step.position;
}

// Features are logits already, but for a factor.
class FakeTransformer final : public Transformer {
 public:
  explicit FakeTransformer(float factor) : Transformer(nothing()), factor_(factor) {}
  void head(ConstActivations features, Matrix<float> logits) const override {
    for (int64_t r = 0; r < features.rows; ++r)
      for (int64_t v = 0; v < kVocab; ++v) logits(r, v) = factor_ * features.matrix()(r, v);
  }

 private:
  static const Model& nothing() {
    static const Model model = [] {
      Model made;
      made.config.hidden = made.config.vocab = kVocab;
      return made;
    }();
    return model;
  }
  float factor_;
};

const FakeTransformer& head_times(float factor) {
  static const FakeTransformer plain(1), doubling(2);
  return factor == 1 ? plain : doubling;
}

class FakeModel final : public LanguageModel {
 public:
  explicit FakeModel(bool quantized) : LanguageModel(head_times(1)), quantized_(quantized) {}
  Tensor features(const Batch& batch) override {
    MatrixBuffer<float> rows(batch.rows(), kVocab);
    traffic_ = {};
    for (int64_t r = 0; r < batch.rows(); ++r) {
      const auto at = static_cast<size_t>(r);
      for (int64_t v = 0; v < kVocab; ++v) rows.view()(r, v) = logit(batch.tokens[at], batch.steps[at], v, 1);
      traffic_.codes.push_back(bits_of(batch.tokens[at], batch.steps[at]));
      traffic_.total.push_back(bits_of(batch.tokens[at], batch.steps[at]) + 32);
    }
    return rows;
  }
  const RowTraffic* traffic() const override { return quantized_ ? &traffic_ : nullptr; }
  int64_t quantized_weights() const override { return 100; }

 private:
  bool quantized_;
  RowTraffic traffic_;
};

int32_t token_at(int64_t window, int64_t t) {
  return static_cast<int32_t>((3 * window + t * t + 1) % kVocab);
}

class FakeReference final : public ReferenceFeatures {
 public:
  void read(int64_t first_window, int64_t count, Matrix<float> out) const override {
    for (int64_t r = 0; r < count * kContext; ++r)
      for (int64_t v = 0; v < kVocab; ++v)
        out(r, v) = logit(token_at(first_window + r / kContext, r % kContext),
                          {Phase::prefill, static_cast<int32_t>(r % kContext), 0}, v, 77) /
                    2;
  }
  // A head of its own: the subject's would give half of it.
  const Transformer& transformer() const override { return head_times(2); }
};

class Recorder final : public MetricSink {
 public:
  void scalar(std::string_view name, double value, std::string_view unit) override {
    scalars[std::string(name)] = value;
    units[std::string(name)] = unit;
  }
  void integer(std::string_view name, int64_t value) override { integers[std::string(name)] = value; }
  void series(std::string_view name, std::span<const double> values, std::string_view unit) override {
    lists[std::string(name)] = {values.begin(), values.end()};
    units[std::string(name)] = unit;
  }
  std::map<std::string, double> scalars;
  std::map<std::string, int64_t> integers;
  std::map<std::string, std::vector<double>> lists;
  std::map<std::string, std::string> units;
};

Windows make_windows(int64_t first_scored) {
  Windows windows{MatrixBuffer<int32_t>(kWindows, kContext), first_scored};
  for (int64_t w = 0; w < kWindows; ++w)
    for (int64_t t = 0; t < kContext; ++t) windows.tokens.row(w)[t] = token_at(w, t);
  return windows;
}

// What the scored tokens should give, token by token.
struct Expected {
  std::vector<double> nll, nll_float, kl, same, codes, total;

  // Tokens [first, kContext) of each window; a token is predicted by the row before it.
  Expected(int64_t first, int64_t prefill) {
    for (int64_t w = 0; w < kWindows; ++w)
      for (int64_t t = first; t < kContext; ++t) {
        const Step step{t - 1 >= prefill ? Phase::decode : Phase::prefill, static_cast<int32_t>(t - 1), 0};
        const std::vector<double> q = probabilities(token_at(w, t - 1), step, 1);
        const std::vector<double> p =
            probabilities(token_at(w, t - 1), {Phase::prefill, static_cast<int32_t>(t - 1), 0}, 77);
        const auto next = static_cast<size_t>(token_at(w, t));
        nll.push_back(-std::log(q[next]));
        nll_float.push_back(-std::log(p[next]));
        double divergence = 0;
        for (size_t v = 0; v < kVocab; ++v) divergence += p[v] * std::log(p[v] / q[v]);
        kl.push_back(divergence);
        same.push_back(std::ranges::max_element(p) - p.begin() == std::ranges::max_element(q) - q.begin());
        const Step read{step.phase, step.position, 0};
        codes.push_back(static_cast<double>(bits_of(token_at(w, t - 1), read)) / 100);
        total.push_back(codes.back() + 0.32);
      }
  }

  static std::vector<double> probabilities(int32_t token, const Step& step, uint64_t seed) {
    std::vector<double> p;
    double sum = 0;
    for (int64_t v = 0; v < kVocab; ++v) {
      p.push_back(std::exp(static_cast<double>(logit(token, step, v, seed))));
      sum += p.back();
    }
    for (double& each : p) each /= sum;
    return p;
  }
};

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

std::vector<double> means_of(const std::vector<double>& values) {
  const size_t each = values.size() / kWindows;
  std::vector<double> means;
  for (size_t w = 0; w < kWindows; ++w)
    means.push_back(mean({values.begin() + static_cast<std::ptrdiff_t>(w * each),
                          values.begin() + static_cast<std::ptrdiff_t>((w + 1) * each)}));
  return means;
}

// The value below which a share q of the sorted values lies, linear between neighbours.
double quantile(std::vector<double> values, double q) {
  std::ranges::sort(values);
  const double at = q * static_cast<double>(values.size() - 1);
  const double low = std::floor(at), high = std::ceil(at);
  return values[static_cast<size_t>(low)] * (1 - (at - low)) + values[static_cast<size_t>(high)] * (at - low);
}

class PerplexityEvaluator : public ::testing::Test {
 protected:
  PerplexityEvaluator() { Progress::set_enabled(false); }

  Recorder run(int64_t prefill, bool quantized = true, bool reference = true, int64_t first_scored = 1) {
    FakeModel model(quantized);
    const FakeReference features;
    const Windows windows = make_windows(first_scored);
    Recorder recorder;
    Registry<Evaluator>::get()
        .make("perplexity")
        ->run({model, reference ? &features : nullptr, windows, prefill, "test"}, recorder);
    return recorder;
  }

  static void expect_near(const std::vector<double>& found, const std::vector<double>& expected) {
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 5e-6) << i;
  }

  static void expect_figures(Recorder found, const Expected& expected) {
    EXPECT_EQ(found.integers["tokens"], static_cast<int64_t>(expected.nll.size()));
    EXPECT_NEAR(found.scalars["perplexity"], std::exp(mean(expected.nll)), 1e-5);
    EXPECT_NEAR(found.scalars["perplexity_float"], std::exp(mean(expected.nll_float)), 1e-5);
    EXPECT_NEAR(found.scalars["kl_mean"], mean(expected.kl), 5e-6);
    EXPECT_NEAR(found.scalars["kl_median"], quantile(expected.kl, 0.5), 5e-6);
    EXPECT_NEAR(found.scalars["kl_p99"], quantile(expected.kl, 0.99), 5e-6);
    EXPECT_NEAR(found.scalars["top1_agreement"], mean(expected.same), 1e-12);
    EXPECT_NEAR(found.scalars["read_bits_codes"], mean(expected.codes), 1e-12);
    EXPECT_NEAR(found.scalars["read_bits_total"], mean(expected.total), 1e-12);
    expect_near(found.lists["token_kl"], expected.kl);
    expect_near(found.lists["token_bits_codes"], expected.codes);
    expect_near(found.lists["window_nll"], means_of(expected.nll));
    expect_near(found.lists["window_nll_float"], means_of(expected.nll_float));
    expect_near(found.lists["window_kl"], means_of(expected.kl));
    expect_near(found.lists["window_bits_codes"], means_of(expected.codes));
  }
};

TEST_F(PerplexityEvaluator, PhaseDecodeScoresEveryTokenButTheFirstAsDecoded) {
  expect_figures(run(0), Expected(1, 0));
}

TEST_F(PerplexityEvaluator, PhasePrefillScoresTheSameTokensAsPrompt) {
  const Recorder found = run(kContext);
  expect_figures(found, Expected(1, kContext));
  EXPECT_EQ(found.scalars.at("read_bits_codes"), 8.0);
}

TEST_F(PerplexityEvaluator, PhaseContinuationScoresWhatFollowsThePrompt) {
  for (const int64_t prompt : {1, 2, 5}) {
    Expected expected(prompt, prompt);
    // The token after the prompt is predicted by the prompt, which is no decoded token: its bits are those of
    // the first one that is.
    const size_t each = expected.codes.size() / kWindows;
    for (size_t w = 0; w < kWindows; ++w) {
      const Step first{Phase::decode, static_cast<int32_t>(prompt), 0};
      const auto token = token_at(static_cast<int64_t>(w), prompt);
      expected.codes[w * each] = static_cast<double>(bits_of(token, first)) / 100;
      expected.total[w * each] = expected.codes[w * each] + 0.32;
    }
    expect_figures(run(prompt), expected);
  }
}

TEST_F(PerplexityEvaluator, TokensBeforeTheFirstScoredOneAreLeftOut) {
  expect_figures(run(0, true, true, 4), Expected(4, 0));
  expect_figures(run(kContext, true, true, 4), Expected(4, kContext));
}

TEST_F(PerplexityEvaluator, WritesWhatItMeasuredAndNothingElse) {
  const std::vector<std::string> always{"perplexity"},
      compared{"kl_mean", "kl_median", "kl_p99", "perplexity_float", "top1_agreement"},
      read{"read_bits_codes", "read_bits_total"};
  const auto names = [](const Recorder& recorder) {
    std::vector<std::string> keys;
    for (const auto& [name, value] : recorder.scalars) keys.push_back(name);
    return keys;
  };
  const auto joined = [](std::vector<std::string> a, const std::vector<std::string>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  };
  EXPECT_THAT(names(run(0, false, false)), ::testing::UnorderedElementsAreArray(always));
  EXPECT_THAT(names(run(0, false, true)), ::testing::UnorderedElementsAreArray(joined(always, compared)));
  EXPECT_THAT(names(run(0, true, false)), ::testing::UnorderedElementsAreArray(joined(always, read)));
  Recorder all = run(0);
  EXPECT_EQ(all.units["perplexity"], "1");
  EXPECT_EQ(all.units["kl_mean"], "nat");
  EXPECT_EQ(all.units["read_bits_codes"], "bit");
  EXPECT_EQ(all.units["token_kl"], "nat");
}

TEST_F(PerplexityEvaluator, AModelComparedWithItselfDivergesNowhere) {
  class Same final : public ReferenceFeatures {
   public:
    void read(int64_t first_window, int64_t count, Matrix<float> out) const override {
      for (int64_t r = 0; r < count * kContext; ++r)
        for (int64_t v = 0; v < kVocab; ++v)
          out(r, v) = logit(token_at(first_window + r / kContext, r % kContext),
                            {Phase::decode, static_cast<int32_t>(r % kContext), 0}, v, 1);
    }
    const Transformer& transformer() const override { return head_times(1); }
  };
  FakeModel model(true);
  const Same features;
  const Windows windows = make_windows(1);
  Recorder found;
  Registry<Evaluator>::get().make("perplexity")->run({model, &features, windows, 0, "test"}, found);
  EXPECT_NEAR(found.scalars["kl_mean"], 0.0, 1e-6);
  EXPECT_EQ(found.scalars["top1_agreement"], 1.0);
  EXPECT_EQ(found.scalars["perplexity"], found.scalars["perplexity_float"]);
}

TEST_F(PerplexityEvaluator, BatchesAreCutWithoutATrace) {
  Recorder one, three;
  {
    const testing::Threads threads(1);
    one = run(0);
  }
  const testing::Threads threads(3);
  three = run(0);
  EXPECT_EQ(one.scalars, three.scalars);
  EXPECT_EQ(one.lists, three.lists);
}

}  // namespace
}  // namespace grinqh
