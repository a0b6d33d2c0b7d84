#include "calib/schedule_trial.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/parallel.h"
#include "core/vector_math.h"
#include "runtime/generate.h"
#include "runtime/language_model.h"

namespace grinqh {

namespace {

constexpr int64_t kBatchTokens = 2048;  // of a forward pass
constexpr int64_t kLogitRows = 256;
constexpr size_t kWriters = 64;  // sequences that are continued together

// Sums the losses of rows `scored` of the features: what each predicts is next[i], to which sequence it
// counts is owner[i].
struct Scored {
  std::vector<int64_t> rows;
  std::vector<int32_t> next;
  std::vector<size_t> owner;
};

// original: the features of the float model, whose predictions the row's are compared with; empty: the loss
// of the token that came.
void add_losses(const LanguageModel& model, Matrix<const float> features, Matrix<const float> original,
                const Scored& scored, std::vector<double>& sums) {
  const auto count = static_cast<int64_t>(scored.rows.size());
  MatrixBuffer<float> picked(kLogitRows, features.cols), logits(kLogitRows, model.vocab()),
      float_logits(original.empty() ? 0 : kLogitRows, model.vocab());
  const auto predict = [&](Matrix<const float> from, int64_t begin, int64_t rows, Matrix<float> to) {
    for (int64_t r = 0; r < rows; ++r)
      std::copy_n(from.row(scored.rows[static_cast<size_t>(begin + r)]), from.cols, picked.row(r));
    model.logits(picked.view().rows_between(0, rows), to.rows_between(0, rows));
  };
  std::vector<double> losses(scored.rows.size());
  for (int64_t begin = 0; begin < count; begin += kLogitRows) {
    const int64_t rows = std::min(kLogitRows, count - begin);
    predict(features, begin, rows, logits);
    if (!original.empty()) predict(original, begin, rows, float_logits);
    parallel_for(rows, [&](int64_t r) {
      const auto i = static_cast<size_t>(begin + r);
      const std::span<const float> scores = logits.view().row_span(r);
      const double normalizer = log_sum_exp(scores);
      if (original.empty()) {
        losses[i] = normalizer - static_cast<double>(scores[static_cast<size_t>(scored.next[i])]);
      } else {
        const std::span<const float> expected = float_logits.view().row_span(r);
        const double float_normalizer = log_sum_exp(expected);
        losses[i] = expected_difference(expected, scores, static_cast<float>(float_normalizer)) + normalizer -
                    float_normalizer;
      }
    });
  }
  for (size_t i = 0; i < losses.size(); ++i) sums[scored.owner[i]] += losses[i];
}

// Appends a sequence: its prompt, then its continuation as decoded tokens. The last token of the continuation
// predicts nothing that is scored and is left out.
void append(Batch& batch, const Tokens& prompt, const Tokens& continuation) {
  const auto length = static_cast<int64_t>(prompt.size() + continuation.size()) - 1;
  const auto prompt_length = static_cast<int64_t>(prompt.size());
  batch.sequences.push_back({batch.rows(), length, 0});
  for (int64_t t = 0; t < length; ++t) {
    const bool decode = t >= prompt_length;
    batch.tokens.push_back(decode ? continuation[static_cast<size_t>(t - prompt_length)]
                                  : prompt[static_cast<size_t>(t)]);
    batch.steps.push_back({decode ? Phase::decode : Phase::prefill, static_cast<int32_t>(t),
                           static_cast<int32_t>(decode ? t - prompt_length : 0)});
  }
}

}  // namespace

std::optional<std::vector<double>> MemoryStore::load(std::string_view name) {
  if (const auto it = values_.find(name); it != values_.end()) return it->second;
  return std::nullopt;
}

void MemoryStore::save(std::string_view name, std::span<const double> values) {
  values_.insert_or_assign(std::string(name), std::vector<double>(values.begin(), values.end()));
}

std::vector<double> ModelTrial::losses(std::span<const Tokens> prompts,
                                       std::span<const Tokens> continuations) {
  return measure(prompts, continuations, Measure::likelihood);
}

std::vector<double> ModelTrial::divergences(std::span<const Tokens> prompts,
                                            std::span<const Tokens> continuations) {
  return measure(prompts, continuations, Measure::divergence);
}

std::vector<double> ModelTrial::measure(std::span<const Tokens> prompts,
                                        std::span<const Tokens> continuations, Measure measure) const {
  check(prompts.size() == continuations.size(), "trial: a continuation for every prompt");
  QuantizedLanguageModel model(transformer_, quantized_, &policy_, prefill_level_);
  FloatModel floating(transformer_);
  std::vector<double> sums(prompts.size(), 0.0);
  for (size_t s = 0; s < prompts.size();) {
    Batch batch;
    Scored scored;
    do {
      if (!continuations[s].empty()) {
        const int64_t first = batch.rows() + static_cast<int64_t>(prompts[s].size()) - 1;
        append(batch, prompts[s], continuations[s]);
        for (size_t i = 0; i < continuations[s].size(); ++i) {
          scored.rows.push_back(first + static_cast<int64_t>(i));
          scored.next.push_back(continuations[s][i]);
          scored.owner.push_back(s);
        }
      }
      ++s;
    } while (s < prompts.size() &&
             batch.rows() + static_cast<int64_t>(prompts[s].size() + continuations[s].size()) <=
                 kBatchTokens);
    if (batch.rows() == 0) continue;
    const MatrixBuffer<float> original =
        measure == Measure::divergence ? floating.features(batch) : MatrixBuffer<float>();
    add_losses(model, model.features(batch), original, scored, sums);
  }
  for (size_t s = 0; s < sums.size(); ++s)
    if (!continuations[s].empty()) sums[s] /= static_cast<double>(continuations[s].size());
  return sums;
}

std::vector<Tokens> ModelTrial::continuations(std::span<const Tokens> prompts, int64_t count, Writer writer) {
  // Prompts of like length go together, as all caches of a batch have one capacity.
  std::vector<size_t> order(prompts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, {}, [&](size_t s) { return prompts[s].size(); });
  const std::vector<int64_t>& ends = transformer_.model().config.eos_tokens;
  std::vector<Tokens> written(prompts.size());
  FloatLinears floating;
  QuantizedLinears quantized(quantized_, &policy_, prefill_level_);
  LinearExecutor& linears = writer == Writer::floating ? static_cast<LinearExecutor&>(floating) : quantized;
  for (size_t begin = 0; begin < order.size(); begin += kWriters) {
    const size_t end = std::min(begin + kWriters, order.size());
    Prompts batch;
    for (size_t i = begin; i < end; ++i) batch.emplace_back(prompts[order[i]]);
    std::vector<Tokens> all = generate(transformer_, linears, batch, count, {});
    for (size_t i = begin; i < end; ++i) {
      Tokens& tokens = all[i - begin];
      tokens.erase(std::ranges::find_if(
                       tokens, [&](int32_t token) { return std::ranges::find(ends, token) != ends.end(); }),
                   tokens.end());
      written[order[i]] = std::move(tokens);
    }
  }
  return written;
}

void ModelTrial::observe(std::span<const Tokens> prompts,
                         const std::function<void(size_t, const Prompt&)>& observer) {
  QuantizedLinears linears(quantized_, &policy_, prefill_level_);
  const int64_t last = transformer_.blocks() - 1;
  for (size_t s = 0; s < prompts.size(); ++s) {
    const auto length = static_cast<int64_t>(prompts[s].size());
    const Matrix<const int32_t> tokens(prompts[s].data(), 1, length);
    KvCache cache = transformer_.make_cache(1, length);
    transformer_.run(Batch::of_windows(tokens, length), linears, &cache);
    observer(s,
             {prompts[s], cache.keys(last, 0), cache.values(last, 0), transformer_.model().config.kv_heads});
  }
}

}  // namespace grinqh
