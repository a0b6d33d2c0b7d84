// The attention of one decode step in one launch: norms of heads, rotation, appending to the cache, and the
// mix of values over everything before.
#pragma once

#include "cuda/attention.h"

namespace grinqh::cuda {

struct StepAttention {
  AttentionShape shape;
  ConstView qkv;  // [sequences, (heads + 2 kv_heads) * head_dim]: as the products left them
  const float *q_norm = nullptr, *k_norm = nullptr;  // [head_dim], or nothing
  float epsilon = 0;
  const float* frequencies = nullptr;  // [head_dim / 2]
  // [sequences]: where the step's tokens stand. Read before the kernels ahead have ended, as is the cache
  // below these positions: only earlier graphs, or none, may write them.
  const int32_t* positions = nullptr;
  // Keys of the first sequence, [capacity, kv_heads * head_dim], and how many elements further the next
  // sequence's begin; values likewise. Of `cache_type`, which keys and values are rounded to.
  void *keys = nullptr, *values = nullptr;
  int64_t sequence_stride = 0, row_stride = 0;
  Type cache_type = Type::f32;
  View out;  // [sequences, heads * head_dim]
};

// Blocks that share the keys of a group of heads: as many as fit the device beside those of the other groups
// and sequences, while each has keys enough. A power of two up to 8.
int attention_parts(const AttentionShape& shape, int64_t sequences, int64_t capacity, int multiprocessors);

// Needs compute capability 9.0. head_dim: a multiple of 8 up to 256.
void step_attention(const StepAttention& task, int parts, Stream stream);

}  // namespace grinqh::cuda
