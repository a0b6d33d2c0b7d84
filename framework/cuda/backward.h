// The parts of the backward pass: what runtime/ops.h, core/vector_math.h and runtime/attention_backward.h are
// for the CPU. Gradients are f32 or bf16 like the activations; arithmetic is float32.
#pragma once

#include "cuda/attention.h"

namespace grinqh::cuda {

// Turn the gradient d in the norm's output into that in its input x, in place. weight null: ones. head_dim: a
// multiple of 8.
void rms_norm_backward(ConstView x, const float* weight, float eps, View d, Stream stream);
void rms_norm_heads_backward(ConstView x, const float* weight, int64_t head_dim, float eps, View d,
                             Stream stream);

// gate and up become the gradients in them, given the gradient d in silu(gate) * up.
void silu_multiply_backward(View gate, View up, ConstView d, Stream stream);

// Whole sequences (past = 0). q, k, v: as the forward pass saw them, after norms and rotation; out: what it
// gave. All of one type; head_dim: a multiple of 8 up to 256. d_q, d_k, d_v are overwritten in the sequences'
// rows; the spans' keys and values are not looked at. The same bits from run to run (no atomics).
struct AttentionBackward {
  ConstView q, k, v, out, d_out;
  View d_q, d_k, d_v;
};
void attention_backward(const AttentionShape& shape, const AttentionBackward& parts,
                        const SequenceSpan* sequences, int64_t count, int64_t longest, float* scratch,
                        Stream stream);
// Floats of scratch for that many tokens in all.
int64_t attention_backward_scratch(const AttentionShape& shape, int64_t tokens);

}  // namespace grinqh::cuda
