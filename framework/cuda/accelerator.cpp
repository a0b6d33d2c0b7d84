#include "cuda/accelerator.h"

#include <mutex>
#include <vector>

#include "core/error.h"
#include "core/timed_scope.h"
#include "cuda/clip_search.h"
#include "cuda/factor_kernels.h"
#include "cuda/layer_clusters.h"
#include "cuda/layer_errors.h"
#include "cuda/layer_feedback.h"
#include "cuda/memory.h"
#include "cuda/solver.h"
#include "cuda/transfers.h"

namespace grinqh::cuda {

namespace {

// The device that a thread uses until the end of a scope.
class DeviceScope {
 public:
  explicit DeviceScope(int device) {
    check_call(cudaGetDevice(&before_), "cudaGetDevice");
    check_call(cudaSetDevice(device), "cudaSetDevice");
  }
  ~DeviceScope() { cudaSetDevice(before_); }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int before_ = 0;
};

class OwnStream {
 public:
  OwnStream() { check_call(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate"); }
  ~OwnStream() { cudaStreamDestroy(stream_); }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  operator Stream() const { return stream_; }

 private:
  Stream stream_ = nullptr;
};

std::string name_of(int device) {
  cudaDeviceProp properties;
  check_call(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  return properties.name;
}

class CudaAccelerator final : public Accelerator {
 public:
  explicit CudaAccelerator(int device) : device_(device), name_(name_of(device)), solver_(stream_) {}

  std::string name() const override { return name_; }

  InverseFactor inverse_cholesky(Matrix<const float> h, double damping) override {
    const TimedScope timed("device: factors");
    const std::lock_guard lock(mutex_);
    const DeviceScope scope(device_);
    const int64_t n = h.rows;
    double mean = 0;
    for (int64_t i = 0; i < n; ++i) mean += static_cast<double>(h(i, i)) / static_cast<double>(n);
    const Array<float> single(n * n, stream_);
    const Array<double> a(n * n, stream_);
    transfers_.upload(h, single.data(), stream_);
    for (;; damping = next_damping(damping)) {
      reverse_damped(single.data(), n, damping * mean, a.data(), stream_);
      if (solver_.factor(a.data(), n)) break;
    }
    solver_.invert_lower(a.data(), n);
    reverse_factor(a.data(), n, single.data(), stream_);
    InverseFactor result{MatrixBuffer<float>(n, n), damping};
    transfers_.download(single.data(), result.upper.view(), stream_);
    return result;
  }

  SymmetricEigen symmetric_eigen(Matrix<const double> matrix) override {
    const TimedScope timed("device: eigenvectors");
    const std::lock_guard lock(mutex_);
    const DeviceScope scope(device_);
    const int64_t n = matrix.rows;
    const Array<double> a(n * n, stream_), values(n, stream_);
    transfers_.upload(matrix, a.data(), stream_);
    if (!solver_.eigenvectors(a.data(), n, values.data()))
      fail("the eigenvectors of a {} x {} matrix were not found (cuSOLVER syevd)", n, n);
    std::vector<double> rising(static_cast<size_t>(n));
    MatrixBuffer<double> vectors(n, n);
    transfers_.download(values.data(), Matrix<double>(rising.data(), 1, n), stream_);
    transfers_.download(a.data(), vectors.view(), stream_);
    return falling_eigen(rising, vectors.view());
  }

  void multiply(const Factor& a, const Factor& b, Matrix<float> y, Output output) override {
    check(a.cols() == b.rows() && y.rows == a.rows() && y.cols == b.cols(), "multiply: shapes");
    const std::lock_guard lock(mutex_);
    const DeviceScope scope(device_);
    const Array<float> left = moved(a.matrix), right = moved(b.matrix);
    const bool adds = output == Output::add;
    const Array<float> result = adds ? moved(y) : Array<float>(y.rows * y.cols, stream_);
    solver_.multiply(view(left, a.matrix), a.transposed, view(right, b.matrix), b.transposed,
                     {result.data(), y.rows, y.cols, y.cols, Type::f32}, 1.0f, adds ? 1.0f : 0.0f);
    transfers_.download(result.data(), y, stream_);
  }

  void search_clips(const ClipTask& task) override {
    const TimedScope timed("device: clips");
    const std::lock_guard lock(mutex_);
    const DeviceScope scope(device_);
    cuda::search_clips(task, solver_, transfers_, stream_);
  }

  void round_with_feedback(const FeedbackTask& task) override {
    const TimedScope timed("device: feedback");
    const std::lock_guard lock(mutex_);
    const DeviceScope scope(device_);
    round_layer(task, solver_, transfers_, stream_);
  }

  void cluster_rows(const ClusterTask& task) override {
    const TimedScope timed("device: clusters");
    const std::lock_guard lock(mutex_);
    const DeviceScope scope(device_);
    cluster_layer(task, transfers_, stream_);
  }

  void level_errors(const LevelTask& task) override {
    const TimedScope timed("device: level errors");
    const std::lock_guard lock(mutex_);
    const DeviceScope scope(device_);
    find_level_errors(task, transfers_, stream_);
  }

 private:
  Array<float> moved(Matrix<const float> from) {
    Array<float> to(from.rows * from.cols, stream_);
    transfers_.upload(from, to.data(), stream_);
    return to;
  }
  static ConstView view(const Array<float>& data, Matrix<const float> m) {
    return {data.data(), m.rows, m.cols, m.cols, Type::f32};
  }

  std::mutex mutex_;
  int device_;
  std::string name_;
  OwnStream stream_;
  Solver solver_;
  Transfers transfers_;
};

}  // namespace

std::shared_ptr<Accelerator> make_accelerator(int device) {
  int count = 0;
  check_call(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
  if (device < 0 || device >= count) fail("CUDA: there is no device {}, but {} in all", device, count);
  const DeviceScope scope(device);
  return std::make_shared<CudaAccelerator>(device);
}

}  // namespace grinqh::cuda
