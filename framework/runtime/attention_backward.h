// Gradients of causal grouped-query attention, for one whole sequence.
#pragma once

#include "runtime/attention.h"

namespace grinqh {

// What attention_task() saw and made for a sequence without a past, and the loss's gradient in `out`.
struct AttentionRecord {
  Matrix<const float> q, out, d_out;  // [T, heads * head_dim]
  Matrix<const float> keys, values;   // [T, kv_heads * head_dim]
};

// Overwrites the columns of one key head, and of the query heads that read it, in the gradients of q, keys
// and values. One key head is a task, `task` in [0, shape.kv_heads). Probabilities are computed again, a tile
// of queries at a time.
void attention_backward_task(const AttentionShape& shape, int64_t task, const AttentionRecord& record,
                             Matrix<float> d_q, Matrix<float> d_keys, Matrix<float> d_values);

}  // namespace grinqh
