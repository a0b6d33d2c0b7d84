// The residual stream of all calibration tokens, advanced block by block: what keeps the memory of a
// calibration pass to one block and the stream itself.
#pragma once

#include <vector>

#include "runtime/transformer.h"

namespace grinqh {

class ResidualStream {
 public:
  // windows: [count, context], which outlive it. The stream starts as the embeddings of their tokens.
  ResidualStream(const Transformer& transformer, Matrix<const int32_t> windows);

  int64_t tokens() const { return x_.rows(); }
  size_t batches() const { return batches_.size(); }
  const Batch& batch(size_t index) const { return batches_[index]; }
  int64_t rows(size_t batch) const { return batches_[batch].rows(); }

  enum class Output : uint8_t { keep, discard };
  // Runs a block over one batch of windows; its output replaces the batch's rows of the stream, or nothing.
  void run(int64_t block, size_t batch, LinearExecutor& linears, Output output);

  Matrix<const int32_t> windows() const { return windows_; }
  // Rows of the stream of windows [first, first + count).
  ConstActivations at(int64_t first, int64_t count) const {
    return x_.view().rows_between(first * windows_.cols, (first + count) * windows_.cols);
  }

 private:
  Activations part(size_t batch) const {
    return x_.view().rows_between(first_rows_[batch], first_rows_[batch] + rows(batch));
  }

  const Transformer& transformer_;
  Matrix<const int32_t> windows_;
  Tensor x_;  // [tokens, hidden]
  std::vector<Batch> batches_;
  std::vector<int64_t> first_rows_;
};

}  // namespace grinqh
