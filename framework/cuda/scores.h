// What an evaluation asks of rows of logits, and the loss's gradient in them.
#pragma once

#include "cuda/types.h"

namespace grinqh::cuda {

struct RowScore {
  double nll, nll_float, kl;
  int32_t same_top;  // whether both rows have their first greatest logit at the same place
  int32_t unused;
};

// For every row with next[t] >= 0, as eval/perplexity.cpp: nll = log sum exp(logits) - logits[next]; with a
// reference (data != nullptr) the same of the reference's logits, KL(reference || model) and agreement.
// Sums in float64 (or compensated: relative error of each value below 1e-6 of the log-sum-exp), terms in
// float32. logits, reference: [rows, vocab] f32 or bf16; next: [rows]; scores: [rows], device.
void score_rows(ConstView logits, ConstView reference, const int32_t* next, RowScore* scores, Stream stream);

// Cross-entropy of each row against next[t] and, in place, its gradient softmax - onehot; a row with
// next[t] < 0 becomes zero, with loss 0. logits: f32 [rows, vocab]; losses: [rows].
void loss_gradient(View logits, const int32_t* next, double* losses, Stream stream);

}  // namespace grinqh::cuda
