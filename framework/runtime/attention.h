// Causal grouped-query attention of one sequence.
#pragma once

#include "core/matrix.h"

namespace grinqh {

struct AttentionShape {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
};

// Rows of q and out are the sequence's last q.rows tokens; keys and values hold all its tokens so far, these
// included. Token t of q sees the keys up to its own. q, out: [T, heads * head_dim]; keys, values:
// [S, kv_heads * head_dim]. One query tile of one head is a task, `task` in [0, attention_tasks()).
int64_t attention_tasks(const AttentionShape& shape, int64_t tokens);
void attention_task(const AttentionShape& shape, int64_t task, Matrix<const float> q,
                    Matrix<const float> keys, Matrix<const float> values, Matrix<float> out);

}  // namespace grinqh
