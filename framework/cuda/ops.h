// The elementwise parts of a decoder block on the device: what runtime/ops.h is for the CPU. Arithmetic is
// float32 whatever the views hold; every function takes both types, inputs and outputs of different types
// among them. Rows are tokens.
#pragma once

#include "cuda/types.h"

namespace grinqh::cuda {

// out[t] = embedding[tokens[t]]. tokens: [out.rows], device.
void embed(const int32_t* tokens, ConstView embedding, View out, Stream stream);

// out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight, as runtime/ops.h rms_norm. weight: [cols]. out may be x.
void rms_norm(ConstView x, const float* weight, float eps, View out, Stream stream);
// The same on each head of a row: x is [tokens, heads * head_dim], in place. weight: [head_dim].
void rms_norm_heads(View x, const float* weight, int64_t head_dim, float eps, Stream stream);

// Rotary embedding in the half-split form, in place: element i of a head turns together with element
// i + head_dim / 2 by the angle float(position) * frequencies[i], sine and cosine of the float32 angle with
// full range reduction (models depend on it). direction: 1, or -1 for the transpose. x: [tokens, heads *
// head_dim]; positions: [tokens]; frequencies: [head_dim / 2].
void rope(View x, const int32_t* positions, const float* frequencies, int64_t head_dim, float direction,
          Stream stream);

// out = silu(gate) * up. out may be gate. The views may be column ranges of one matrix.
void silu_multiply(ConstView gate, ConstView up, View out, Stream stream);

void add_rows(View x, ConstView y, Stream stream);        // x += y
void add_bias(View x, const float* bias, Stream stream);  // to every row. bias: [cols]
// To rows with flags[t] != 0 only. flags: [rows]
void add_bias_where(View x, const float* bias, const uint8_t* flags, Stream stream);
void copy(ConstView from, View to, Stream stream);                            // converts if the types differ
void copy_rows(ConstView from, const int32_t* rows, View to, Stream stream);  // to[i] = from[rows[i]]
void scatter_rows(ConstView from, const int32_t* rows, View to, Stream stream);  // to[rows[i]] = from[i]
void subtract(ConstView a, ConstView b, View out, Stream stream);                // a - b

// *sum (device, float64) = sum over elements of (a - b)^2, in an order that does not change from run to run.
// scratch: [4096] float64.
void squared_distance(ConstView a, ConstView b, double* sum, double* scratch, Stream stream);
// *flag = 1 if an element of x is not finite; left as it is otherwise.
void find_not_finite(ConstView x, int32_t* flag, Stream stream);

}  // namespace grinqh::cuda
