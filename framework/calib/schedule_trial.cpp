#include "calib/schedule_trial.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "runtime/generate.h"
#include "runtime/language_model.h"

namespace grinqh {

namespace {

constexpr size_t kWriters = 64;  // sequences that are continued together

// Sums the losses of rows `scored` of the features: what each predicts is next[i], to which sequence it
// counts is owner[i].
struct Scored {
  std::vector<int64_t> rows;
  std::vector<int32_t> next;
  std::vector<size_t> owner;
};

// original: the float model's features of the same rows, whose predictions theirs are compared with; null:
// the loss of the token that came.
void add_scores(const LanguageModel& model, const Tensor& features, const Tensor* original,
                const Scored& scored, std::vector<double>& sums) {
  std::vector<int32_t> next(static_cast<size_t>(features.rows()), -1);
  for (size_t i = 0; i < scored.rows.size(); ++i) next[static_cast<size_t>(scored.rows[i])] = scored.next[i];
  std::vector<TokenScore> scores(next.size());
  ScoreTask task{features, next};
  if (original) task.reference = &model.transformer(), task.reference_features = *original;
  model.transformer().score(task, scores);
  for (size_t i = 0; i < scored.rows.size(); ++i) {
    const TokenScore& score = scores[static_cast<size_t>(scored.rows[i])];
    sums[scored.owner[i]] += original ? score.kl : score.nll;
  }
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
                 transformer_.batch_tokens());
    if (batch.rows() == 0) continue;
    const Tensor features = model.features(batch);
    if (measure == Measure::divergence) {
      const Tensor original = floating.features(batch);
      add_scores(model, features, &original, scored, sums);
    } else {
      add_scores(model, features, nullptr, scored, sums);
    }
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
  std::unique_ptr<LinearExecutor> linears;
  if (writer == Writer::floating)
    linears = transformer_.float_linears();
  else
    linears = transformer_.quantized_linears(quantized_, &policy_, prefill_level_);
  for (size_t begin = 0; begin < order.size(); begin += kWriters) {
    const size_t end = std::min(begin + kWriters, order.size());
    Prompts batch;
    for (size_t i = begin; i < end; ++i) batch.emplace_back(prompts[order[i]]);
    std::vector<Tokens> all = generate(transformer_, *linears, batch, count, {});
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
  const auto linears = transformer_.quantized_linears(quantized_, &policy_, prefill_level_);
  const int64_t last = transformer_.blocks() - 1;
  for (size_t s = 0; s < prompts.size(); ++s) {
    const auto length = static_cast<int64_t>(prompts[s].size());
    const Matrix<const int32_t> tokens(prompts[s].data(), 1, length);
    KvCache cache = transformer_.make_cache(1, length);
    transformer_.run(Batch::of_windows(tokens, length), *linears, &cache);
    const MatrixBuffer<float> keys = transformer_.to_host(cache.keys(last, 0));
    const MatrixBuffer<float> values = transformer_.to_host(cache.values(last, 0));
    observer(s, {prompts[s], keys, values, transformer_.model().config.kv_heads});
  }
}

}  // namespace grinqh
