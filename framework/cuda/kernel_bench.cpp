#include "cuda/kernel_bench.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <map>

#include "core/error.h"
#include "cuda/context.h"
#include "cuda/device_properties.h"
#include "cuda/gemv.h"
#include "cuda/graph_timer.h"
#include "cuda/product_timer.h"
#include "cuda/read_roof.h"

namespace grinqh::cuda {

namespace {

// What a call needs besides the weights: bfloat16 inputs as decoding has them, float32 outputs so that the
// kernel's own error shows, thresholds.
class Operands {
 public:
  Operands(const Context& context, const BenchTask& task, int64_t out)
      : x_(context.tensor(task.x.rows, task.x.cols, Type::bf16)),
        y_(context.tensor(task.x.rows, out, Type::f32)) {
    context.copy(task.x, x_.view());
    reading_.level = task.level;
    if (task.grading == nullptr) return;
    const ChannelGrading& grading = *task.grading;
    const MatrixBuffer<float>& thresholds = grading.thresholds;
    check(!grading.budget && grading.full_tokens == 0 && thresholds.cols() == 1,
          "bench: thresholds as they are, shared by all channels");
    thresholds_ = context.upload(thresholds.data(), thresholds.rows());
    rule_.thresholds = thresholds_.data();
    rule_.shared = true;
    rule_.count = static_cast<int32_t>(grading.levels.size());
    std::ranges::copy(grading.levels, rule_.levels);
    reading_.grading = &rule_;
  }
  Operands(const Operands&) = delete;

  void run(Gemv& gemv, Stream stream) const {
    gemv.run({view(ConstActivations(x_.view()))}, {&reading_, 1}, {view(y_.view())}, stream);
  }
  Activations y() const { return y_.view(); }

 private:
  Tensor x_, y_;
  Array<float> thresholds_;
  GradingRule rule_;
  GemvReading reading_;
};

class BenchedGemv final : public BenchedKernel {
 public:
  BenchedGemv(const Context& context, std::unique_ptr<Gemv> gemv) : context_(context) {
    copies_.push_back(std::move(gemv));
  }

  double tolerance() const override { return first().tolerance(); }
  int64_t bytes_read(const LevelCounts& counts) const override { return first().bytes_read({&counts, 1}); }

  MatrixBuffer<float> product(const BenchTask& task) override {
    const Operands operands(context_, task, first().out());
    MatrixBuffer<float> y(task.x.rows, first().out());
    std::fill_n(y.data(), y.size(), std::numeric_limits<float>::quiet_NaN());
    context_.copy(ConstActivations(y.view()), operands.y());
    operands.run(*copies_.front(), context_.stream());
    context_.copy(ConstActivations(operands.y()), y.view());
    return y;
  }

  TimedSamples time(const BenchTask& task, int repetitions) override {
    const Operands operands(context_, task, first().out());
    const int64_t bytes = bytes_read(task.counts), copies = copies_beyond_caches(bytes);
    while (static_cast<int64_t>(copies_.size()) < copies) copies_.push_back(first().clone(context_.stream()));
    // A kernel may set itself up in its first call.
    operands.run(*copies_.front(), context_.stream());
    return {time_in_graph(
        calls_in_graph(copies, bytes),
        [&](int64_t call) { operands.run(*copies_[static_cast<size_t>(call % copies)], context_.stream()); },
        repetitions, context_.stream())};
  }

 private:
  const Gemv& first() const { return *copies_.front(); }

  const Context& context_;
  std::vector<std::unique_ptr<Gemv>> copies_;
};

class DeviceKernelBench final : public KernelBench {
 public:
  explicit DeviceKernelBench(const DeviceChoice& device)
      : context_(device), multiprocessors_(device_properties(device.index).multiprocessors) {
    cudaDeviceProp properties;
    check_call(cudaGetDeviceProperties(&properties, context_.choice().index), "cudaGetDeviceProperties");
    name_ = properties.name;
    std::ranges::replace(name_, ',', ' ');
  }

  std::string device() const override { return name_; }

  std::vector<BenchedKernelName> kernels(std::string_view layout) const override {
    std::vector<BenchedKernelName> names;
    for (const GemvKernel& kernel : gemv_kernels(layout))
      names.push_back({kernel.name, kernel.summary, kernel.grades == GemvKernel::Grades::yes});
    return names;
  }

  std::unique_ptr<BenchedKernel> make(std::string_view layout, std::string_view kernel,
                                      const QuantizedLinear& layer) override {
    for (const GemvKernel& each : gemv_kernels(layout)) {
      if (each.name != kernel) continue;
      const QuantizedLinear* layers[] = {&layer};
      auto gemv = each.make(layers, context_.stream());
      if (gemv == nullptr) return nullptr;
      return std::make_unique<BenchedGemv>(context_, std::move(gemv));
    }
    fail("layout {} has no kernel {} on {}", layout, kernel, name_);
  }

  double roof(int64_t bytes, int repetitions, bool early) override {
    const int64_t size = (bytes + 15) / 16 * 16;
    const auto known = roofs_.find({size, early});
    if (known != roofs_.end()) return known->second;
    const int64_t copies = copies_beyond_caches(size);
    reserve(copies * size);
    double best = std::numeric_limits<double>::infinity();
    for (const ReadKernel& kernel : read_kernels()) {
      if (kernel.early && !early) continue;
      const auto read = [&](int64_t call) {
        read_only(kernel, data_.as<char>() + call % copies * size, size, sink_.data(), multiprocessors_,
                  context_.stream());
      };
      read(0);
      const TimedSamples samples{
          time_in_graph(calls_in_graph(copies, size), read, repetitions, context_.stream())};
      best = std::min(best, samples.quantile(0.5));
    }
    return roofs_.emplace(std::pair(size, early), best).first->second;
  }

  double library_product(int64_t tokens, int64_t in, int64_t out) override {
    return time_product(context_, tokens, in, out);
  }

 private:
  // Memory to read, of random bits; the first time after work enough for the clocks to rise.
  void reserve(int64_t bytes) {
    if (bytes <= data_.size()) return;
    const bool first = data_.size() == 0;
    data_ = Bytes();
    data_ = context_.bytes(bytes);
    if (first) sink_ = context_.array<uint32_t>(1);
    const auto begin = std::chrono::steady_clock::now();
    do {
      fill_random(data_.data(), bytes, 1, context_.stream());
      context_.synchronize();
    } while (first && std::chrono::steady_clock::now() - begin < std::chrono::milliseconds(500));
  }

  Context context_;
  int multiprocessors_ = 0;
  std::string name_;
  Bytes data_;
  Array<uint32_t> sink_;
  std::map<std::pair<int64_t, bool>, double> roofs_;
};

}  // namespace

std::unique_ptr<KernelBench> make_kernel_bench(const DeviceChoice& device) {
  return std::make_unique<DeviceKernelBench>(device);
}

}  // namespace grinqh::cuda
