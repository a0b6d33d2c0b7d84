#include "cuda/held_matrices.h"

namespace grinqh::cuda {

namespace {

std::shared_ptr<const Array<float>> copied(Matrix<const float> matrix, Transfers& transfers, Stream stream) {
  auto copy = std::make_shared<const Array<float>>(matrix.rows * matrix.cols, stream);
  transfers.upload(matrix, copy->data(), stream);
  return copy;
}

}  // namespace

std::shared_ptr<void> HeldMatrices::hold(Matrix<const float> matrix) {
  auto held = std::make_shared<Held>();
  held->matrix = matrix;
  const std::lock_guard lock(mutex_);
  std::erase_if(held_, [](const auto& each) { return each.second.expired(); });
  held_[matrix.data] = held;
  return held;
}

std::shared_ptr<HeldMatrices::Held> HeldMatrices::find(const float* data) {
  const std::lock_guard lock(mutex_);
  const auto found = held_.find(data);
  return found == held_.end() ? nullptr : found->second.lock();
}

std::shared_ptr<const Array<float>> HeldMatrices::on_device(Matrix<const float> matrix, Transfers& transfers,
                                                            Stream stream) {
  const std::shared_ptr<Held> held = find(matrix.data);
  if (!held || held->matrix.rows != matrix.rows || held->matrix.cols != matrix.cols ||
      held->matrix.stride != matrix.stride)
    return copied(matrix, transfers, stream);
  const std::lock_guard lock(held->making);
  if (!held->copy) {
    held->copy = copied(matrix, transfers, stream);
    check_call(cudaStreamSynchronize(stream), "a matrix that streams share");
  }
  return held->copy;
}

}  // namespace grinqh::cuda
