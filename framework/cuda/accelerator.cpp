#include "cuda/accelerator.h"

#include <condition_variable>
#include <mutex>
#include <vector>

#include "core/error.h"
#include "core/timed_scope.h"
#include "cuda/clip_search.h"
#include "cuda/factor_kernels.h"
#include "cuda/held_matrices.h"
#include "cuda/layer_clusters.h"
#include "cuda/layer_errors.h"
#include "cuda/layer_feedback.h"
#include "cuda/layer_nested.h"
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

// What one call computes with: calls on different lanes run beside each other.
struct Lane {
  OwnStream stream;
  Solver solver{stream};
  Transfers transfers;
};

class CudaAccelerator final : public Accelerator {
 public:
  explicit CudaAccelerator(int device) : device_(device), name_(name_of(device)) {
    for (int i = 0; i < kLanes; ++i) free_.push_back(std::make_unique<Lane>());
  }

  std::string name() const override { return name_; }

  InverseFactor inverse_cholesky(Matrix<const float> h, double damping) override {
    const Use use(*this);
    const TimedScope timed("device: factors");
    const Stream stream = use->stream;
    const int64_t n = h.rows;
    double mean = 0;
    for (int64_t i = 0; i < n; ++i) mean += static_cast<double>(h(i, i)) / static_cast<double>(n);
    const Array<float> single(n * n, stream);
    const Array<double> a(n * n, stream);
    use->transfers.upload(h, single.data(), stream);
    for (;; damping = next_damping(damping)) {
      reverse_damped(single.data(), n, damping * mean, a.data(), stream);
      if (use->solver.factor(a.data(), n)) break;
    }
    use->solver.invert_lower(a.data(), n);
    reverse_factor(a.data(), n, single.data(), stream);
    InverseFactor result{MatrixBuffer<float>(n, n), damping};
    use->transfers.download(single.data(), result.upper.view(), stream);
    return result;
  }

  SymmetricEigen symmetric_eigen(Matrix<const double> matrix) override {
    const Use use(*this);
    const TimedScope timed("device: eigenvectors");
    const int64_t n = matrix.rows;
    const Array<double> a(n * n, use->stream), values(n, use->stream);
    use->transfers.upload(matrix, a.data(), use->stream);
    if (!use->solver.eigenvectors(a.data(), n, values.data()))
      fail("the eigenvectors of a {} x {} matrix were not found (cuSOLVER syevd)", n, n);
    std::vector<double> rising(static_cast<size_t>(n));
    MatrixBuffer<double> vectors(n, n);
    use->transfers.download(values.data(), Matrix<double>(rising.data(), 1, n), use->stream);
    use->transfers.download(a.data(), vectors.view(), use->stream);
    return falling_eigen(rising, vectors.view());
  }

  void multiply(const Factor& a, const Factor& b, Matrix<float> y, Output output) override {
    check(a.cols() == b.rows() && y.rows == a.rows() && y.cols == b.cols(), "multiply: shapes");
    const Use use(*this);
    const TimedScope timed("device: products");
    const auto left = on_device(a.matrix, *use), right = on_device(b.matrix, *use);
    const Array<float> result(y.rows * y.cols, use->stream);
    const bool adds = output == Output::add;
    if (adds) use->transfers.upload<float>(y, result.data(), use->stream);
    use->solver.multiply(view(*left, a.matrix), a.transposed, view(*right, b.matrix), b.transposed,
                         {result.data(), y.rows, y.cols, y.cols, Type::f32}, 1.0f, adds ? 1.0f : 0.0f);
    use->transfers.download(result.data(), y, use->stream);
  }

  void search_clips(const ClipTask& task) override {
    const Use use(*this);
    const TimedScope timed("device: clips");
    cuda::search_clips(task, use->solver, use->transfers, use->stream);
  }

  void round_with_feedback(const FeedbackTask& task) override {
    const Use use(*this);
    const TimedScope timed("device: feedback");
    const auto weight = on_device(task.weight, *use);
    round_layer(task, weight->data(), use->solver, use->transfers, use->stream);
  }

  void cluster_rows(const ClusterTask& task) override {
    const Use use(*this);
    const TimedScope timed("device: clusters");
    cluster_layer(task, use->transfers, use->stream);
  }

  void level_errors(const LevelTask& task) override {
    const Use use(*this);
    const TimedScope timed("device: level errors");
    const auto weight = on_device(task.weight, *use);
    find_level_errors(task, weight->data(), use->transfers, use->stream);
  }

  void sum_prefixes(const PrefixTask& task) override {
    const Use use(*this);
    const TimedScope timed("device: sums by prefix");
    const auto weight = on_device(task.weight, *use);
    LayerPrefixes(task.grids, task.sums, use->transfers, use->stream)
        .add(weight->data(), 0, task.weight.rows, task.weight.cols);
  }

  void nested_errors(const NestedErrorTask& task) override {
    const Use use(*this);
    const TimedScope timed("device: level errors");
    const auto weight = on_device(task.weight, *use);
    find_nested_errors(task, weight->data(), use->transfers, use->stream);
  }

  std::shared_ptr<void> hold(Matrix<const float> matrix) override { return held_.hold(matrix); }

 private:
  static constexpr int kLanes = 2;

  // A lane for the length of a call, on this device.
  class Use {
   public:
    explicit Use(CudaAccelerator& owner) : owner_(owner), scope_(owner.device_) {
      std::unique_lock lock(owner.mutex_);
      owner.freed_.wait(lock, [&] { return !owner.free_.empty(); });
      lane_ = std::move(owner.free_.back());
      owner.free_.pop_back();
    }
    ~Use() {
      {
        const std::lock_guard lock(owner_.mutex_);
        owner_.free_.push_back(std::move(lane_));
      }
      owner_.freed_.notify_one();
    }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;
    Lane* operator->() const { return lane_.get(); }
    Lane& operator*() const { return *lane_; }

   private:
    CudaAccelerator& owner_;
    DeviceScope scope_;
    std::unique_ptr<Lane> lane_;
  };

  std::shared_ptr<const Array<float>> on_device(Matrix<const float> matrix, Lane& lane) {
    return held_.on_device(matrix, lane.transfers, lane.stream);
  }
  static ConstView view(const Array<float>& data, Matrix<const float> m) {
    return {data.data(), m.rows, m.cols, m.cols, Type::f32};
  }

  int device_;
  std::string name_;
  std::mutex mutex_;
  std::condition_variable freed_;
  std::vector<std::unique_ptr<Lane>> free_;
  HeldMatrices held_;
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
