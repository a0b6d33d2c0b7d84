// Matrices of the host that stay as they are for a while, and their copies on the device.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "cuda/memory.h"
#include "cuda/transfers.h"

namespace grinqh::cuda {

// For several threads.
class HeldMatrices {
 public:
  // The matrix does not change as long as what is returned lives, nor does the accelerator end.
  std::shared_ptr<void> hold(Matrix<const float> matrix);

  // Dense rows on the device, done with when the stream has come so far: the copy of a held matrix, which the
  // first that asks makes, or one of the caller's own.
  std::shared_ptr<const Array<float>> on_device(Matrix<const float> matrix, Transfers& transfers,
                                                Stream stream);

 private:
  struct Held {
    Matrix<const float> matrix;
    std::mutex making;
    std::shared_ptr<const Array<float>> copy;
  };
  std::shared_ptr<Held> find(const float* data);

  std::mutex mutex_;
  std::map<const float*, std::weak_ptr<Held>> held_;
};

}  // namespace grinqh::cuda
