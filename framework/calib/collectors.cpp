// The framework's collectors.
#include <vector>

#include "core/parallel.h"
#include "core/registry.h"
#include "quant/log_histogram.h"
#include "quant/stats.h"

namespace grinqh {
namespace {

// Channels of a task: they are independent, so counts do not depend on threads.
constexpr int64_t kTaskChannels = 32;

// Counts of |x| in the bins of LogHistogram for every input channel. [in, kBins]
class MagnitudeHistogram final : public Collector {
 public:
  struct Options {
    template <class V>
    void fields(V&) {}
  };
  explicit MagnitudeHistogram(Options) {}

  void observe(Matrix<const float> x) override {
    counts_.resize(static_cast<size_t>(x.cols) * LogHistogram::kBins);
    parallel_for((x.cols + kTaskChannels - 1) / kTaskChannels, [&](int64_t task) {
      const int64_t begin = task * kTaskChannels, end = std::min(begin + kTaskChannels, x.cols);
      for (int64_t t = 0; t < x.rows; ++t)
        for (int64_t i = begin; i < end; ++i)
          ++counts_[static_cast<size_t>(i * LogHistogram::kBins + LogHistogram::bin(std::abs(x(t, i))))];
    });
  }

  std::vector<float> finish() override { return {counts_.begin(), counts_.end()}; }

 private:
  std::vector<uint32_t> counts_;
};

const Register<Collector, MagnitudeHistogram> magnitude_histogram{
    "magnitude_histogram", "counts of |x| for every input channel, four bins an octave"};

}  // namespace
}  // namespace grinqh
