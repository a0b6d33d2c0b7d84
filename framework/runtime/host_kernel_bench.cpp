#include "runtime/host_kernel_bench.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <limits>

#include <unistd.h>

#include "core/error.h"
#include "core/gemm.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "quant/gemv.h"

namespace grinqh {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kWarmCalls = 3;
constexpr int64_t kCachesRotated = 4;  // times the last cache
constexpr int64_t kMostCopies = 4096;

int64_t copies_beyond_caches(int64_t bytes) {
  const int64_t pool = kCachesRotated * last_cache_bytes();
  if (pool == 0) fail("the size of the processor's last cache is not known: nothing can be timed beyond it");
  return std::clamp<int64_t>((pool + bytes - 1) / std::max<int64_t>(bytes, 1), 2, kMostCopies);
}

// One value a call, after some that do not count.
template <class Call>
TimedSamples time_calls(const Call& call, int repetitions) {
  TimedSamples samples;
  for (int64_t i = 0; i < kWarmCalls + repetitions; ++i) {
    const auto begin = Clock::now();
    call(i);
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    if (i >= kWarmCalls) samples.microseconds.push_back(seconds * 1e6);
  }
  return samples;
}

class HostKernel final : public BenchedKernel {
 public:
  explicit HostKernel(std::unique_ptr<Gemv> gemv) { copies_.push_back(std::move(gemv)); }

  double tolerance() const override { return copies_.front()->tolerance(); }
  int64_t bytes_read(const LevelCounts& counts) const override { return copies_.front()->bytes_read(counts); }

  MatrixBuffer<float> product(const BenchTask& task) override {
    MatrixBuffer<float> y(task.x.rows, copies_.front()->out());
    std::fill_n(y.data(), y.size(), std::numeric_limits<float>::quiet_NaN());
    run(*copies_.front(), task, y);
    return y;
  }

  TimedSamples time(const BenchTask& task, int repetitions) override {
    const int64_t copies = copies_beyond_caches(bytes_read(task.counts));
    while (static_cast<int64_t>(copies_.size()) < copies) copies_.push_back(copies_.front()->clone());
    MatrixBuffer<float> y(task.x.rows, copies_.front()->out());
    return time_calls([&](int64_t i) { run(*copies_[static_cast<size_t>(i % copies)], task, y); },
                      repetitions);
  }

 private:
  static void run(const Gemv& gemv, const BenchTask& task, Matrix<float> y) {
    if (task.grading == nullptr) return gemv.run(task.x, {task.level, {}}, y);
    MatrixBuffer<Level> levels(task.x.rows, task.x.cols);
    const std::vector<Step> steps(static_cast<size_t>(task.x.rows), Step{Phase::decode});
    grade_channels(*task.grading, steps, task.x, levels);
    gemv.run(task.x, {kFullLevel, levels.view()}, y);
  }

  std::vector<std::unique_ptr<Gemv>> copies_;
};

uint64_t sum_of(const uint64_t* words, int64_t count) {
  constexpr int kSums = 16;
  uint64_t sums[kSums] = {}, sum = 0;
  int64_t i = 0;
  for (; i + kSums <= count; i += kSums)
    for (int j = 0; j < kSums; ++j) sums[j] += words[i + j];
  for (; i < count; ++i) sum += words[i];
  for (const uint64_t each : sums) sum += each;
  return sum;
}

class HostKernelBench final : public KernelBench {
 public:
  std::string device() const override {
    std::string name = "cpu";
    std::ifstream processor("/proc/cpuinfo");
    for (std::string line; std::getline(processor, line);)
      if (line.starts_with("model name")) {
        name = line.substr(std::min(line.find(':') + 2, line.size()));
        break;
      }
    std::ranges::replace(name, ',', ' ');
    return fmt::format("{} {} threads", name, threads());
  }

  std::vector<BenchedKernelName> kernels(std::string_view layout) const override {
    std::vector<BenchedKernelName> names;
    for (const GemvKernel& kernel : gemv_kernels(layout))
      names.push_back({kernel.name, kernel.summary, kernel.grades == GemvKernel::Grades::yes});
    return names;
  }

  std::unique_ptr<BenchedKernel> make(std::string_view layout, std::string_view kernel,
                                      const QuantizedLinear& layer) override {
    for (const GemvKernel& each : gemv_kernels(layout))
      if (each.name == kernel) {
        auto gemv = each.make(layer);
        return gemv == nullptr ? nullptr : std::make_unique<HostKernel>(std::move(gemv));
      }
    fail("layout {} has no kernel {} on the CPU", layout, kernel);
  }

  // Measured anew at every call: whatever else the machine does changes from moment to moment.
  double roof(int64_t bytes, int repetitions, bool) override {
    const int64_t words = (bytes + 7) / 8, copies = copies_beyond_caches(bytes);
    reserve(copies * words);
    double best = std::numeric_limits<double>::infinity();
    for (const int64_t task_words : {int64_t{1} << 13, int64_t{1} << 16, int64_t{1} << 19}) {
      const int64_t tasks = (words + task_words - 1) / task_words;
      std::vector<uint64_t> sums(static_cast<size_t>(tasks));
      const TimedSamples samples = time_calls(
          [&](int64_t i) {
            const uint64_t* data = data_.data() + i % copies * words;
            parallel_for(tasks, [&](int64_t task) {
              const int64_t begin = task * task_words;
              sums[static_cast<size_t>(task)] = sum_of(data + begin, std::min(task_words, words - begin));
            });
          },
          repetitions);
      best = std::min(best, samples.quantile(0.5));
      for (const uint64_t sum : sums) sum_ = sum_ + sum;
    }
    return best;
  }

  double library_product(int64_t tokens, int64_t in, int64_t out) override {
    return time_blas_sgemm(tokens, in, out, 1);
  }

 private:
  void reserve(int64_t words) {
    if (words <= data_.size()) return;
    data_ = MatrixBuffer<uint64_t>(1, words);
    constexpr int64_t kTask = 1 << 16;
    parallel_for((words + kTask - 1) / kTask, [&](int64_t task) {
      Rng rng(1, static_cast<uint64_t>(task));
      for (int64_t i = task * kTask; i < std::min((task + 1) * kTask, words); ++i)
        data_.data()[i] = rng.bits();
    });
  }

  MatrixBuffer<uint64_t> data_;
  volatile uint64_t sum_ = 0;  // so that what is read is used
};

}  // namespace

int64_t last_cache_bytes() {
  // What the kernel says of the first processor: its share, which a virtual machine may have cut down; the C
  // library's figure is that of the whole package.
  int64_t size = 0;
  for (int index = 0; index < 8; ++index) {
    std::ifstream file(fmt::format("/sys/devices/system/cpu/cpu0/cache/index{}/size", index));
    int64_t number = 0;
    char unit = 0;
    if (file >> number >> unit) size = std::max(size, number * (unit == 'M' ? 1 << 20 : 1 << 10));
  }
  if (size == 0)
    for (const int name : {_SC_LEVEL3_CACHE_SIZE, _SC_LEVEL2_CACHE_SIZE})
      size = std::max<int64_t>(size, sysconf(name));
  return size;
}

std::unique_ptr<KernelBench> make_host_kernel_bench() { return std::make_unique<HostKernelBench>(); }

}  // namespace grinqh
