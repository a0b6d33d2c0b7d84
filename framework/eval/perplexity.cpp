// Perplexity, KL divergence and top-1 agreement against the float model, and the bits that were read.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/progress.h"
#include "eval/evaluator.h"

namespace grinqh {

namespace {

// One value for every scored token, in order; empty without a reference where they compare with it.
struct Scores {
  std::vector<double> nll, nll_float, kl, same_top, bits_codes, bits_total;
  void resize(size_t tokens, bool reference, bool bits) {
    nll.resize(tokens);
    for (auto* each : {&nll_float, &kl, &same_top}) each->resize(reference ? tokens : 0);
    for (auto* each : {&bits_codes, &bits_total}) each->resize(bits ? tokens : 0);
  }
  void set(size_t at, const TokenScore& score) {
    nll[at] = score.nll;
    if (kl.empty()) return;
    nll_float[at] = score.nll_float;
    kl[at] = score.kl;
    same_top[at] = score.same_top ? 1.0 : 0.0;
  }
};

double mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

// Linear interpolation between order statistics (numpy's default).
double quantile(std::vector<double> values, double q) {
  std::ranges::sort(values);
  const double at = q * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (at - static_cast<double>(below)) * (values[above] - values[below]);
}

std::vector<double> window_means(std::span<const double> values, int64_t windows) {
  std::vector<double> means;
  const size_t each = values.size() / static_cast<size_t>(windows);
  for (int64_t w = 0; w < windows && each > 0; ++w)
    means.push_back(mean(values.subspan(static_cast<size_t>(w) * each, each)));
  return means;
}

class Perplexity final : public Evaluator {
 public:
  struct Options {
    template <class V>
    void fields(V&) {}
  };
  explicit Perplexity(Options) {}

  void run(const EvaluationTask& task, MetricSink& sink) const override {
    const Windows& windows = task.windows;
    const int64_t context = windows.context();
    // Token t is predicted by row t - 1. In continuation only the tokens after the prompt are scored.
    const bool continuation = task.prefill_tokens > 0 && task.prefill_tokens < context;
    const int64_t first_row = std::max(windows.first_scored, continuation ? task.prefill_tokens : 1) - 1;
    const int64_t scored = context - 1 - first_row;

    Scores scores;
    scores.resize(static_cast<size_t>(windows.count() * scored), task.reference != nullptr,
                  task.subject.traffic() != nullptr);
    Progress progress(task.label, windows.count() * context, "tokens");
    const int64_t step = std::max<int64_t>(1, task.subject.transformer().batch_tokens() / context);
    for (int64_t first = 0; first < windows.count(); first += step) {
      const int64_t count = std::min(step, windows.count() - first);
      score_batch(task, first, count, first_row, scored, scores);
      progress.advance(count * context);
    }
    report(scores, windows.count(), sink);
    if (first_row + 1 == task.prefill_tokens && !scores.bits_codes.empty())
      report_schedule(scores, windows.count(), sink);
  }

 private:
  static void score_batch(const EvaluationTask& task, int64_t first, int64_t count, int64_t first_row,
                          int64_t scored, Scores& scores) {
    const int64_t context = task.windows.context();
    const Matrix<const int32_t> tokens = task.windows.tokens.view().rows_between(first, first + count);
    const Tensor features = task.subject.features(Batch::of_windows(tokens, task.prefill_tokens));
    std::vector<int32_t> next(static_cast<size_t>(features.rows()), -1);
    for (int64_t w = 0; w < count; ++w)
      std::copy_n(tokens.row(w) + first_row + 1, scored,
                  next.begin() + static_cast<int64_t>(w * context + first_row));
    MatrixBuffer<float> reference(task.reference ? features.rows() : 0, features.cols());
    ScoreTask score{features, next};
    if (task.reference) {
      task.reference->read(first, count, reference);
      score.reference = &task.reference->transformer();
      score.reference_features = reference;
    }
    std::vector<TokenScore> rows(next.size());
    task.subject.transformer().score(score, rows);
    for (int64_t w = 0; w < count; ++w)
      for (int64_t i = 0; i < scored; ++i)
        scores.set(static_cast<size_t>((first + w) * scored + i),
                   rows[static_cast<size_t>(w * context + first_row + i)]);
    if (task.subject.traffic()) count_bits(task, first, count, first_row, scored, scores);
  }

  // Bits a weight of the row that predicts each scored token; the row before a continuation is prefill and
  // takes the bits of the first decoded one.
  static void count_bits(const EvaluationTask& task, int64_t first, int64_t count, int64_t first_row,
                         int64_t scored, Scores& scores) {
    const RowTraffic& traffic = *task.subject.traffic();
    const auto weights = static_cast<double>(task.subject.quantized_weights());
    const int64_t context = task.windows.context();
    const bool continuation = task.prefill_tokens > 0 && task.prefill_tokens < context;
    for (int64_t w = 0; w < count; ++w)
      for (int64_t i = 0; i < scored; ++i) {
        int64_t row = first_row + i;
        if (continuation) row = std::max(row, task.prefill_tokens);
        const auto from = static_cast<size_t>(w * context + row);
        const auto at = static_cast<size_t>((first + w) * scored + i);
        scores.bits_codes[at] = static_cast<double>(traffic.codes[from]) / weights;
        scores.bits_total[at] = static_cast<double>(traffic.total[from]) / weights;
      }
  }

  static void report(const Scores& scores, int64_t windows, MetricSink& sink) {
    sink.integer("tokens", static_cast<int64_t>(scores.nll.size()));
    sink.scalar("perplexity", std::exp(mean(scores.nll)), "1");
    sink.series("window_nll", window_means(scores.nll, windows), "nat");
    if (!scores.kl.empty()) {
      sink.scalar("perplexity_float", std::exp(mean(scores.nll_float)), "1");
      sink.scalar("kl_mean", mean(scores.kl), "nat");
      sink.scalar("kl_median", quantile(scores.kl, 0.5), "nat");
      sink.scalar("kl_p99", quantile(scores.kl, 0.99), "nat");
      sink.scalar("top1_agreement", mean(scores.same_top), "1");
      sink.series("window_nll_float", window_means(scores.nll_float, windows), "nat");
      sink.series("window_kl", window_means(scores.kl, windows), "nat");
      sink.series("token_kl", scores.kl, "nat");
    }
    if (!scores.bits_codes.empty()) {
      sink.scalar("read_bits_codes", mean(scores.bits_codes), "bit");
      sink.scalar("read_bits_total", mean(scores.bits_total), "bit");
      sink.series("window_bits_codes", window_means(scores.bits_codes, windows), "bit");
      sink.series("token_bits_codes", scores.bits_codes, "bit");
    }
  }

  // Decode steps alone, as methods with schedules count: for each window the mean over its decode steps but
  // the first (whose token the prompt gave), then the mean over windows.
  static void report_schedule(const Scores& scores, int64_t windows, MetricSink& sink) {
    const size_t each = scores.bits_codes.size() / static_cast<size_t>(windows);
    constexpr size_t kFirst = 2;  // the row of the prompt's end, and decode step 0
    if (each <= kFirst) return;
    std::vector<double> means;
    for (size_t w = 0; w < static_cast<size_t>(windows); ++w)
      means.push_back(mean(std::span(scores.bits_codes).subspan(w * each + kFirst, each - kFirst)));
    sink.scalar("schedule_bits", mean(means), "bit");
    sink.series("window_schedule_bits", means, "bit");
  }
};

const Register<Evaluator, Perplexity> plugin{
    "perplexity", "perplexity, KL divergence, top-1 agreement and bits read, by windows of a text"};

}  // namespace
}  // namespace grinqh
