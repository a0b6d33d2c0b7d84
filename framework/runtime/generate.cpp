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
                                           const std::function<bool(size_t, int32_t)>& on_token,
                                           bool counts_bits) {
  size_t longest = 0;
  for (const auto& prompt : prompts) longest = std::max(longest, prompt.size());
  const DecodePlan plan{std::ssize(prompts), static_cast<int64_t>(longest) + count, nullptr, counts_bits};
  const auto decoder = transformer.make_decoder(linears, plan);
  return generate(transformer, linears, *decoder, prompts, count, sampling, [&](size_t s, int32_t token) {
    if (s == 0 && counts_bits) decoder->traffic();
    return on_token(s, token);
  });
}

std::vector<std::vector<int32_t>> generate(const Transformer& transformer, LinearExecutor& linears,
                                           Decoder& decoder, const Prompts& prompts, int64_t count,
                                           const Sampling& sampling,
                                           const std::function<bool(size_t, int32_t)>& on_token) {
  const auto sequences = std::ssize(prompts);
  std::vector<Rng> random;
  for (size_t s = 0; s < prompts.size(); ++s) random.emplace_back(sampling.seed, sampling.first_stream + s);
  std::vector<std::vector<int32_t>> generated(prompts.size());

  // The prompts themselves predict the first tokens.
  MatrixBuffer<float> logits(sequences, transformer.vocab());
  const Batch batch = whole_prompts(prompts);
  const Tensor features = transformer.run(batch, linears, &decoder.cache());
  const Tensor last = transformer.allocate(sequences, transformer.hidden());
  for (int64_t s = 0; s < sequences; ++s) {
    const SequenceRows& rows = batch.sequences[static_cast<size_t>(s)];
    const int64_t end = rows.first_row + rows.count;
    transformer.copy(features.view().rows_between(end - 1, end), last.view().rows_between(s, s + 1));
  }
  transformer.head(last, logits);
  Schedules schedules(linears);
  schedules.begin(transformer, decoder.cache(), prompts);
  std::vector<int32_t> tokens, positions;
  for (size_t s = 0; s < prompts.size(); ++s) {
    const std::span<const float> scores = logits.view().row_span(static_cast<int64_t>(s));
    tokens.push_back(sampling.temperature > 0 ? sample(scores, sampling.temperature, random[s].uniform())
                                              : argmax(scores));
    positions.push_back(static_cast<int32_t>(prompts[s].size()));
    generated[s].push_back(tokens[s]);
    if (!on_token(s, tokens[s])) return generated;
  }
  if (count == 1) return generated;

  decoder.begin(tokens, positions, sampling, 1);
  const bool sees_logits = schedules.input() == ScheduleInput::logits;
  const int64_t ahead = sees_logits ? 1 : decoder.most_ahead();
  std::vector<Level> levels(prompts.size());
  int64_t begun = 0;
  for (int64_t index = 0; index + 1 < count; ++index) {
    for (; begun + 1 < count && begun < index + ahead; ++begun) {
      if (sees_logits && begun > 0) decoder.logits(logits);
      for (size_t s = 0; s < prompts.size(); ++s)
        levels[s] =
            schedules.level(s, static_cast<int32_t>(begun), logits.view().row_span(static_cast<int64_t>(s)));
      decoder.advance(levels);
    }
    tokens = decoder.read();
    for (size_t s = 0; s < prompts.size(); ++s) {
      generated[s].push_back(tokens[s]);
      if (!on_token(s, tokens[s])) return generated;
    }
  }
  return generated;
}

std::vector<std::vector<int32_t>> generate(const Transformer& transformer, LinearExecutor& linears,
                                           Matrix<const int32_t> prompts, int64_t count,
                                           const Sampling& sampling,
                                           const std::function<bool(size_t, int32_t)>& on_token,
                                           bool counts_bits) {
  Prompts rows;
  for (int64_t s = 0; s < prompts.rows; ++s) rows.push_back(prompts.row_span(s));
  return generate(transformer, linears, rows, count, sampling, on_token, counts_bits);
}

}  // namespace grinqh
