#include "calib/residual_stream.h"

#include <algorithm>

namespace grinqh {

namespace {
constexpr int64_t kBatchTokens = 2048;
}

ResidualStream::ResidualStream(const Transformer& transformer, Matrix<const int32_t> windows)
    : transformer_(transformer), x_(windows.rows * windows.cols, transformer.hidden()) {
  const int64_t step = std::max<int64_t>(1, kBatchTokens / windows.cols);
  for (int64_t w = 0; w < windows.rows; w += step) {
    const int64_t end = std::min(w + step, windows.rows);
    batches_.push_back(Batch::of_windows(windows.rows_between(w, end), windows.cols));
    first_rows_.push_back(w * windows.cols);
    const MatrixBuffer<float> embedded = transformer.embed(batches_.back());
    std::copy_n(embedded.data(), embedded.size(), x_.row(first_rows_.back()));
  }
}

Matrix<const float> ResidualStream::at(size_t batch) const {
  return x_.view().rows_between(first_rows_[batch], first_rows_[batch] + rows(batch));
}

void ResidualStream::run(int64_t block, size_t batch, LinearExecutor& linears, Output output) {
  const Batch& tokens = batches_[batch];
  linears.begin_batch(tokens.steps);
  const Matrix<float> stream = x_.view().rows_between(first_rows_[batch], first_rows_[batch] + rows(batch));
  if (output == Output::keep) {
    transformer_.run_block(block, tokens, stream, linears, nullptr);
  } else {
    MatrixBuffer<float> copy(stream.rows, stream.cols);
    std::copy_n(stream.data, copy.size(), copy.data());
    transformer_.run_block(block, tokens, copy, linears, nullptr);
  }
}

}  // namespace grinqh
