#include "runtime/generate.h"

#include <algorithm>
#include <cmath>

#include "core/rng.h"
#include "core/vector_math.h"
#include "runtime/scheduled.h"

namespace grinqh {

int32_t argmax(std::span<const float> logits) {
  return static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin());
}

int32_t sample(std::span<const float> logits, double temperature, double uniform) {
  std::vector<float> weights(logits.begin(), logits.end());
  for (float& weight : weights) weight = static_cast<float>(weight / temperature);
  double rest = uniform * exp_shifted(weights, maximum(weights));
  for (size_t i = 0; i < weights.size(); ++i)
    if ((rest -= static_cast<double>(weights[i])) < 0) return static_cast<int32_t>(i);
  return argmax(logits);  // rounding left a rest: the draw was at the very end
}

namespace {

Batch whole_prompts(const Prompts& prompts) {
  Batch batch;
  for (const auto& prompt : prompts) {
    batch.sequences.push_back({batch.rows(), static_cast<int64_t>(prompt.size()), 0});
    batch.tokens.insert(batch.tokens.end(), prompt.begin(), prompt.end());
    for (size_t t = 0; t < prompt.size(); ++t)
      batch.steps.push_back({Phase::prefill, static_cast<int32_t>(t), 0});
  }
  return batch;
}

}  // namespace

std::vector<std::vector<int32_t>> generate(const Transformer& transformer, LinearExecutor& linears,
                                           const Prompts& prompts, int64_t count, const Sampling& sampling,
                                           const std::function<bool(size_t, int32_t)>& on_token) {
  const auto sequences = static_cast<int64_t>(prompts.size());
  size_t longest = 0;
  std::vector<Rng> random;
  for (size_t s = 0; s < prompts.size(); ++s) {
    longest = std::max(longest, prompts[s].size());
    random.emplace_back(sampling.seed, sampling.first_stream + s);
  }
  KvCache cache = transformer.make_cache(sequences, static_cast<int64_t>(longest) + count);
  std::vector<std::vector<int32_t>> generated(prompts.size());

  Schedules schedules(linears);
  Batch batch = whole_prompts(prompts);
  const Tensor last = transformer.allocate(sequences, transformer.hidden());
  MatrixBuffer<float> logits(sequences, transformer.vocab());
  for (int64_t index = 0; index < count; ++index) {
    const Tensor features = transformer.run(batch, linears, &cache);
    for (int64_t s = 0; s < sequences; ++s) {
      const SequenceRows& rows = batch.sequences[static_cast<size_t>(s)];
      const int64_t end = rows.first_row + rows.count;
      transformer.copy(features.view().rows_between(end - 1, end), last.view().rows_between(s, s + 1));
    }
    transformer.head(last, logits);
    if (index == 0) schedules.begin(transformer, cache, prompts);

    Batch next;
    for (size_t s = 0; s < prompts.size(); ++s) {
      const auto row = static_cast<int64_t>(s);
      const std::span<const float> scores = logits.view().row_span(row);
      const int32_t token = sampling.temperature > 0
                                ? sample(scores, sampling.temperature, random[s].uniform())
                                : argmax(scores);
      generated[s].push_back(token);
      if (!on_token(s, token)) return generated;
      const int64_t past = static_cast<int64_t>(prompts[s].size()) + index;
      next.tokens.push_back(token);
      next.sequences.push_back({row, 1, past});
      next.steps.push_back({Phase::decode, static_cast<int32_t>(past), static_cast<int32_t>(index),
                            schedules.level(s, static_cast<int32_t>(index), scores)});
    }
    batch = std::move(next);
  }
  return generated;
}

std::vector<std::vector<int32_t>> generate(const Transformer& transformer, LinearExecutor& linears,
                                           Matrix<const int32_t> prompts, int64_t count,
                                           const Sampling& sampling,
                                           const std::function<bool(size_t, int32_t)>& on_token) {
  Prompts rows;
  for (int64_t s = 0; s < prompts.rows; ++s) rows.push_back(prompts.row_span(s));
  return generate(transformer, linears, rows, count, sampling, on_token);
}

}  // namespace grinqh
