// What runtime/backward.cpp is for the CPU: gradients of the next-token loss at every linear layer.
#pragma once

#include <string>
#include <vector>

#include "cuda/transformer.h"

namespace grinqh::cuda {

class BackwardPass {
 public:
  BackwardPass(const DeviceTransformer& transformer, const Batch& batch, const GradientObserver& observe);
  // The loss of each sequence.
  std::vector<double> run();

 private:
  struct Tape;  // what the forward pass of one block went through
  class TapedLinears;

  // The gradient in the residual stream x before the final norm.
  Tensor head(const Tensor& x, std::vector<double>& losses) const;
  // Turns the gradient d in the block's output into that in its input x.
  void run_block(int64_t index, const Tensor& x, View d) const;
  void mlp(int64_t index, Tape& tape, const Tensor& x, View d) const;
  void attention(int64_t index, Tape& tape, const Tensor& x, View d) const;
  // From the gradient in what the heads mixed to those in the outputs of the projections.
  void scores(int64_t index, const Tape& tape, const Tensor& d_mixed, const Tensor& d_q, const Tensor& d_k,
              const Tensor& d_v) const;
  // Shows the layer to the observer, and goes through it: dx = dy W, or +=.
  void through(const LinearWeights& linear, const Tensor& x, ConstView dy, View dx, float beta) const;

  void require_finite(ConstView x, const std::string& layer, const char* what) const;
  Tensor typed(int64_t rows, int64_t cols) const { return context_.tensor(rows, cols, context_.type()); }
  Tensor copy_typed(ConstView x) const;

  const DeviceTransformer& transformer_;
  const Context& context_;
  const Batch& batch_;
  const GradientObserver& observe_;
};

}  // namespace grinqh::cuda
