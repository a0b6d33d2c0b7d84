// The residual stream of all calibration tokens, advanced block by block: what keeps the memory of a
// calibration pass to one block and the stream itself.
#pragma once

#include <vector>

#include "runtime/transformer.h"

namespace grinqh {

class ResidualStream {
 public:
  // windows: [count, context]. The stream starts as the embeddings of their tokens.
  ResidualStream(const Transformer& transformer, Matrix<const int32_t> windows);

  int64_t tokens() const { return x_.rows(); }
  size_t batches() const { return batches_.size(); }
  int64_t rows(size_t batch) const { return batches_[batch].rows(); }

  enum class Output : uint8_t { keep, discard };
  // Runs a block over one batch of windows; its output replaces the batch's rows of the stream, or nothing.
  void run(int64_t block, size_t batch, LinearExecutor& linears, Output output);

  // A batch's rows of the stream. [rows, hidden]
  Matrix<const float> at(size_t batch) const;

 private:
  const Transformer& transformer_;
  MatrixBuffer<float> x_;  // [tokens, hidden]
  std::vector<Batch> batches_;
  std::vector<int64_t> first_rows_;
};

}  // namespace grinqh
