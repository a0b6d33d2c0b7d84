// The framework's collectors.
#include <vector>

#include "core/gemm.h"
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

  void observe(ConstActivations inputs) override {
    const Matrix<const float> x = inputs.matrix();
    counts_.resize(static_cast<size_t>(x.cols) * LogHistogram::kBins);
    parallel_for((x.cols + kTaskChannels - 1) / kTaskChannels, [&](int64_t task) {
      const int64_t begin = task * kTaskChannels, end = std::min(begin + kTaskChannels, x.cols);
      for (int64_t t = 0; t < x.rows; ++t)
        for (int64_t i = begin; i < end; ++i)
          ++counts_[static_cast<size_t>(i * LogHistogram::kBins + LogHistogram::bin(std::abs(x(t, i))))];
    });
  }

  PlainVector<float> finish() override { return {counts_.begin(), counts_.end()}; }
  Merge merge() const override { return Merge::sum; }

 private:
  std::vector<uint32_t> counts_;
};

// Sums of x over the bins of its magnitude, over tokens: E[x 1(|x| in bin)]. [in, kBins]
class SignedHistogram final : public Collector {
 public:
  struct Options {
    template <class V>
    void fields(V&) {}
  };
  explicit SignedHistogram(Options) {}

  void observe(ConstActivations inputs) override {
    const Matrix<const float> x = inputs.matrix();
    sums_.resize(static_cast<size_t>(x.cols) * LogHistogram::kBins);
    parallel_for((x.cols + kTaskChannels - 1) / kTaskChannels, [&](int64_t task) {
      const int64_t begin = task * kTaskChannels, end = std::min(begin + kTaskChannels, x.cols);
      for (int64_t t = 0; t < x.rows; ++t)
        for (int64_t i = begin; i < end; ++i)
          sums_[static_cast<size_t>(i * LogHistogram::kBins + LogHistogram::bin(std::abs(x(t, i))))] +=
              static_cast<double>(x(t, i));
    });
    tokens_ += x.rows;
  }

  PlainVector<float> finish() override {
    PlainVector<float> means;
    for (const double sum : sums_) means.push_back(static_cast<float>(sum / static_cast<double>(tokens_)));
    return means;
  }

 private:
  std::vector<double> sums_;
  int64_t tokens_ = 0;
};

// H = sum of x x^T / tokens. [in, in], both halves filled.
class SecondMoment final : public Collector {
 public:
  struct Options {
    template <class V>
    void fields(V&) {}
  };
  explicit SecondMoment(Options) {}

  void observe(ConstActivations inputs) override {
    const Matrix<const float> x = inputs.matrix();
    if (sum_.size() == 0) sum_ = MatrixBuffer<double>::zeroed(x.cols, x.cols);
    add_gram(x, sum_);
    tokens_ += x.rows;
  }

  PlainVector<float> finish() override {
    PlainVector<float> mean(static_cast<size_t>(sum_.size()));
    const int64_t in = sum_.rows();
    for (int64_t i = 0; i < in; ++i)
      for (int64_t j = i; j < in; ++j) {
        const auto value = static_cast<float>(sum_.row(i)[j] / static_cast<double>(tokens_));
        mean[static_cast<size_t>(i * in + j)] = value;
        mean[static_cast<size_t>(j * in + i)] = value;
      }
    sum_ = {};
    return mean;
  }

 private:
  MatrixBuffer<double> sum_;  // upper triangle
  int64_t tokens_ = 0;
};

// Mean of a function of |x| for every input channel. [in]
template <class Accumulate>
class ChannelMagnitude : public Collector {
 public:
  void observe(ConstActivations inputs) override {
    const Matrix<const float> x = inputs.matrix();
    values_.resize(static_cast<size_t>(x.cols));
    parallel_for((x.cols + kTaskChannels - 1) / kTaskChannels, [&](int64_t task) {
      const int64_t begin = task * kTaskChannels, end = std::min(begin + kTaskChannels, x.cols);
      for (int64_t t = 0; t < x.rows; ++t)
        for (int64_t i = begin; i < end; ++i)
          Accumulate()(values_[static_cast<size_t>(i)], static_cast<double>(std::abs(x(t, i))));
    });
    tokens_ += x.rows;
  }

 protected:
  std::vector<double> values_;
  int64_t tokens_ = 0;
};

struct Sum {
  void operator()(double& sum, double magnitude) const { sum += magnitude; }
};
struct Maximum {
  void operator()(double& maximum, double magnitude) const { maximum = std::max(maximum, magnitude); }
};

class MeanMagnitude final : public ChannelMagnitude<Sum> {
 public:
  struct Options {
    template <class V>
    void fields(V&) {}
  };
  explicit MeanMagnitude(Options) {}
  PlainVector<float> finish() override {
    PlainVector<float> mean;
    for (const double sum : values_) mean.push_back(static_cast<float>(sum / static_cast<double>(tokens_)));
    return mean;
  }
};

class MaxMagnitude final : public ChannelMagnitude<Maximum> {
 public:
  struct Options {
    template <class V>
    void fields(V&) {}
  };
  explicit MaxMagnitude(Options) {}
  PlainVector<float> finish() override { return {values_.begin(), values_.end()}; }
  Merge merge() const override { return Merge::largest; }
};

// E[(x_float - x) x^T]: how far the inputs have drifted from the float model's, seen from the inputs. [in,
// in] (GPTAQ, 2504.02692)
class InputDrift final : public DriftCollector {
 public:
  struct Options {
    template <class V>
    void fields(V&) {}
  };
  explicit InputDrift(Options) {}

  void observe(ConstActivations inputs, ConstActivations float_inputs) override {
    const Matrix<const float> x = inputs.matrix(), x_float = float_inputs.matrix();
    if (sum_.size() == 0) sum_ = MatrixBuffer<double>::zeroed(x.cols, x.cols);
    MatrixBuffer<float> drift(x.rows, x.cols);
    parallel_for(x.rows, [&](int64_t t) {
      for (int64_t i = 0; i < x.cols; ++i) drift.row(t)[i] = x_float(t, i) - x(t, i);
    });
    add_cross_gram(drift, x, sum_);
    tokens_ += x.rows;
  }

  PlainVector<float> finish() override {
    PlainVector<float> mean(static_cast<size_t>(sum_.size()));
    for (size_t i = 0; i < mean.size(); ++i)
      mean[i] = static_cast<float>(sum_.data()[i] / static_cast<double>(tokens_));
    sum_ = {};
    return mean;
  }

 private:
  MatrixBuffer<double> sum_;
  int64_t tokens_ = 0;
};

const Register<Collector, MeanMagnitude> mean_magnitude{"mean_magnitude", "mean |x| of every input channel"};
const Register<Collector, MaxMagnitude> max_magnitude{"max_magnitude", "largest |x| of every input channel"};
const Register<DriftCollector, InputDrift> input_drift{
    "input_drift", "mean of (x_float - x) x^T: how far inputs are from those of the float model"};

const Register<Collector, MagnitudeHistogram> magnitude_histogram{
    "magnitude_histogram", "counts of |x| for every input channel, four bins an octave"};

const Register<Collector, SignedHistogram> signed_histogram{
    "signed_histogram", "mean of x where |x| is in each bin, for every input channel"};

const Register<Collector, SecondMoment> second_moment{
    "second_moment", "mean of x x^T over the tokens: the Hessian of the layer's squared output error"};

}  // namespace
}  // namespace grinqh
