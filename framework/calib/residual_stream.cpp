#include "calib/residual_stream.h"

#include <algorithm>

namespace grinqh {

ResidualStream::ResidualStream(const Transformer& transformer, Matrix<const int32_t> windows)
    : transformer_(transformer),
      windows_(windows),
      x_(transformer.allocate(windows.rows * windows.cols, transformer.hidden())) {
  const int64_t step = std::max<int64_t>(1, transformer.batch_tokens() / windows.cols);
  for (int64_t w = 0; w < windows.rows; w += step) {
    const int64_t end = std::min(w + step, windows.rows);
    batches_.push_back(Batch::of_windows(windows.rows_between(w, end), windows.cols));
    first_rows_.push_back(w * windows.cols);
    transformer.copy(transformer.embed(batches_.back()), part(batches_.size() - 1));
  }
}

void ResidualStream::run(int64_t block, size_t batch, LinearExecutor& linears, Output output) {
  const Batch& tokens = batches_[batch];
  linears.begin_batch(tokens.steps);
  if (output == Output::keep) {
    transformer_.run_block(block, tokens, part(batch), linears, nullptr);
  } else {
    const Tensor copy = transformer_.copy_of(part(batch));
    transformer_.run_block(block, tokens, copy, linears, nullptr);
  }
}

}  // namespace grinqh
