// The elementwise parts of a decoder block. Rows are tokens; everything is float32.
#pragma once

#include <span>
#include <vector>

#include "core/dtype.h"
#include "core/matrix.h"
#include "model/config.h"
#include "quant/precision.h"

namespace grinqh {

// out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight. out may be x.
void rms_norm(Matrix<const float> x, std::span<const float> weight, double eps, Matrix<float> out);

// The same on each head of a row: x is [tokens, heads * weight.size()].
void rms_norm_heads(Matrix<float> x, std::span<const float> weight, double eps);

// Turn the gradient in the norm's output into that in its input x, in place. d: like x.
void rms_norm_backward(Matrix<const float> x, std::span<const float> weight, double eps, Matrix<float> d);
void rms_norm_heads_backward(Matrix<const float> x, std::span<const float> weight, double eps,
                             Matrix<float> d);

void add_rows(Matrix<float> x, Matrix<const float> y);        // x += y
void add_bias(Matrix<float> x, std::span<const float> bias);  // to every row

// Rotary position embedding (Su et al., 2104.09864) in the half-split form of transformers: element i of a
// head turns together with element i + head_dim / 2.
class Rope {
 public:
  // `frequencies` are kept in this type; see Transformer.
  Rope(const RopeConfig& config, int64_t head_dim, DType frequencies);
  // x: [tokens, heads * head_dim], rotated in place by each token's position.
  void apply(Matrix<float> x, std::span<const Step> steps) const { turn(x, steps, 1.0f); }
  // The transpose of the rotation, which is its inverse: what gradients go through.
  void apply_transposed(Matrix<float> x, std::span<const Step> steps) const { turn(x, steps, -1.0f); }
  // Radians a position turns each pair of elements by. [head_dim / 2]
  std::span<const float> frequencies() const { return frequencies_; }

 private:
  void turn(Matrix<float> x, std::span<const Step> steps, float direction) const;

  int64_t head_dim_;
  std::vector<float> frequencies_;  // [head_dim / 2]
};

}  // namespace grinqh
