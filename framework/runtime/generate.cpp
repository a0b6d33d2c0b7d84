#include "runtime/generate.h"

#include <algorithm>
#include <cmath>

#include "core/rng.h"
#include "core/vector_math.h"

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

std::vector<std::vector<int32_t>> generate(const Transformer& transformer, LinearExecutor& linears,
                                           Matrix<const int32_t> prompts, int64_t count,
                                           const Sampling& sampling,
                                           const std::function<bool(size_t, int32_t)>& on_token) {
  const auto sequences = static_cast<size_t>(prompts.rows);
  KvCache cache = transformer.make_cache(prompts.rows, prompts.cols + count);
  std::vector<Rng> random;
  for (size_t s = 0; s < sequences; ++s) random.emplace_back(sampling.seed, sampling.first_stream + s);
  std::vector<std::vector<int32_t>> generated(sequences);

  Batch batch = Batch::of_windows(prompts, prompts.cols);
  MatrixBuffer<float> last(prompts.rows, transformer.hidden());
  MatrixBuffer<float> logits(prompts.rows, transformer.vocab());
  for (int64_t step = 0; step < count; ++step) {
    const MatrixBuffer<float> features = transformer.run(batch, linears, &cache);
    const int64_t length = batch.sequences[0].count;
    for (int64_t s = 0; s < prompts.rows; ++s)
      std::copy_n(features.row((s + 1) * length - 1), features.cols(), last.row(s));
    transformer.head(last, logits);

    Batch next;
    for (size_t s = 0; s < sequences; ++s) {
      const auto row = static_cast<int64_t>(s);
      const std::span<const float> scores = logits.view().row_span(row);
      const int32_t token = sampling.temperature > 0
                                ? sample(scores, sampling.temperature, random[s].uniform())
                                : argmax(scores);
      generated[s].push_back(token);
      if (!on_token(s, token)) return generated;
      const int64_t past = prompts.cols + step;
      next.tokens.push_back(token);
      next.sequences.push_back({row, 1, past});
      next.steps.push_back({Phase::decode, static_cast<int32_t>(past), static_cast<int32_t>(step)});
    }
    batch = std::move(next);
  }
  return generated;
}

}  // namespace grinqh
