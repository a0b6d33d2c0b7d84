// Causal grouped-query attention of several sequences in one launch, as runtime/attention.h.
#pragma once

#include "cuda/types.h"

namespace grinqh::cuda {

struct AttentionShape {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
};

// Rows [first_row, first_row + count) of q and out are the sequence's last tokens; keys and values hold all
// its tokens so far, these included: [past + count, kv_heads * head_dim], rows `kv_stride` apart.
struct SequenceSpan {
  int64_t first_row, count, past;
  const void* keys;
  const void* values;
};

// sequences: [count] in device memory; longest: the greatest count of rows among them. All matrices and the
// keys have one type: bf16 multiplies on tensor cores (float32 accumulation and softmax), f32 keeps float32
// throughout. head_dim: a multiple of 8 up to 256. q, out: [tokens, heads * head_dim].
void attention(const AttentionShape& shape, ConstView q, const SequenceSpan* sequences, int64_t count,
               int64_t longest, int64_t kv_stride, View out, Stream stream);

// One query a sequence over a long past (decoding): splits the keys among blocks. Same arguments; every
// sequence has count = 1. longest_past: the greatest past + 1. scratch: decode_attention_scratch() bytes.
int64_t decode_attention_scratch(const AttentionShape& shape, int64_t sequences, int64_t longest_past);
void decode_attention(const AttentionShape& shape, ConstView q, const SequenceSpan* sequences, int64_t count,
                      int64_t longest_past, int64_t kv_stride, View out, void* scratch, Stream stream);

}  // namespace grinqh::cuda
