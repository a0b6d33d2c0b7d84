#include "runtime/token_scores.h"

#include <algorithm>

#include "core/parallel.h"
#include "core/vector_math.h"
#include "runtime/generate.h"
#include "runtime/transformer.h"

namespace grinqh {

namespace {

TokenScore score_row(std::span<const float> logits, std::span<const float> original, int32_t next) {
  TokenScore score;
  const double lse = log_sum_exp(logits);
  score.nll = lse - static_cast<double>(logits[static_cast<size_t>(next)]);
  if (original.empty()) return score;
  const double lse_float = log_sum_exp(original);
  score.nll_float = lse_float - static_cast<double>(original[static_cast<size_t>(next)]);
  // KL(p || q) = E_p[p's logits - q's logits] + log Z_q - log Z_p.
  score.kl = expected_difference(original, logits, static_cast<float>(lse_float)) + lse - lse_float;
  score.same_top = argmax(logits) == argmax(original);
  return score;
}

}  // namespace

void score_tokens(const Transformer& transformer, const ScoreTask& task, std::span<TokenScore> scores) {
  const int64_t rows = logit_rows(transformer.vocab());
  MatrixBuffer<float> logits(rows, transformer.vocab());
  MatrixBuffer<float> float_logits(task.reference ? rows : 0, transformer.vocab());
  for (int64_t begin = 0; begin < task.features.rows; begin += rows) {
    const int64_t end = std::min(begin + rows, task.features.rows);
    const Matrix<float> subject = logits.view().rows_between(0, end - begin);
    transformer.head(task.features.rows_between(begin, end), subject);
    Matrix<float> original;
    if (task.reference) {
      original = float_logits.view().rows_between(0, end - begin);
      task.reference->head(task.reference_features.rows_between(begin, end), original);
    }
    parallel_for(end - begin, [&](int64_t r) {
      const auto row = static_cast<size_t>(begin + r);
      if (task.next[row] < 0) return;
      scores[row] =
          score_row(subject.row_span(r), original.empty() ? std::span<const float>() : original.row_span(r),
                    task.next[row]);
    });
  }
}

int64_t logit_rows(int64_t vocab) {
  constexpr int64_t kLogits = int64_t{1} << 23;  // 32 MiB
  return std::clamp<int64_t>(kLogits / vocab, 16, 1024);
}

}  // namespace grinqh
