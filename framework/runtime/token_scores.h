// How well rows of final hidden states predict the tokens after them.
#pragma once

#include <cstdint>
#include <span>

#include "core/tensor.h"

namespace grinqh {

class Transformer;

struct TokenScore {
  double nll = 0;         // negative log-likelihood of the next token, nats
  double nll_float = 0;   // the reference's
  double kl = 0;          // KL(reference || model) of the next token's distribution, nats
  bool same_top = false;  // whether the likeliest next token is the same
};

struct ScoreTask {
  ConstActivations features;      // [rows, hidden], after the final norm
  std::span<const int32_t> next;  // the token after each row; below 0: the row is not scored
  // Null: no reference. Its features are of the same tokens, on its own device or the CPU, and its head may
  // be another than the model's.
  const Transformer* reference = nullptr;
  ConstActivations reference_features = {};
};

// Rows of logits that the CPU holds at a time.
int64_t logit_rows(int64_t vocab);

// scores: one a row; rows that are not scored keep what they have. On the CPU, for any device's head.
void score_tokens(const Transformer& transformer, const ScoreTask& task, std::span<TokenScore> scores);

}  // namespace grinqh
