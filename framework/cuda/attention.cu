#include "cuda/attention.h"

#include "cuda/attention_kernels.h"

namespace grinqh::cuda {

void attention(const AttentionShape& shape, ConstView q, const SequenceSpan* sequences, int64_t count,
               int64_t longest, int64_t kv_stride, View out, Stream stream) {
  if (count <= 0 || longest <= 0 || shape.heads <= 0) return;
  const AttentionTask task{shape, q, sequences, count, longest, kv_stride, out};
  if (q.type == Type::f32)
    attention_f32(task, stream);
  else if (!attention_hopper(task, stream))
    attention_bf16(task, stream);
}

}  // namespace grinqh::cuda
