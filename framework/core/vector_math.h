// Elementwise float32 loops that are worth SIMD on their own (Highway, dispatched at run time). Sums are
// carried in float64 across blocks.
#pragma once

#include <cstdint>
#include <span>

namespace grinqh {

// x[i] = exp(x[i] - shift); returns the sum.
double exp_shifted(std::span<float> x, float shift);

float maximum(std::span<const float> x);

// log(sum_i exp(x[i])).
double log_sum_exp(std::span<const float> x);

// sum_i exp(p[i] - shift) (p[i] - q[i]): with shift = log_sum_exp(p) the expectation under softmax(p) of the
// difference of two rows of logits.
double expected_difference(std::span<const float> p, std::span<const float> q, float shift);

// out[i] = silu(gate[i]) * up[i]; out may be gate or up.
void silu_multiply(std::span<const float> gate, std::span<const float> up, std::span<float> out);

// Turns gate and up into the loss's gradients in them, given its gradient in silu(gate) * up.
void silu_multiply_backward(std::span<float> gate, std::span<float> up, std::span<const float> gradient);

double sum_of_squares(std::span<const float> x);

}  // namespace grinqh
