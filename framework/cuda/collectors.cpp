// The collectors of calib/collectors.cpp, sampled_inputs.cpp and gradient_collectors.cpp for activations on
// the device, under the same names.
#include <algorithm>
#include <vector>

#include "core/parallel.h"
#include "cuda/moments.h"
#include "cuda/ops.h"
#include "cuda/transformer.h"
#include "quant/gradient_collector.h"
#include "quant/stats.h"
#include "runtime/device_collectors.h"

namespace grinqh::cuda {
namespace {

const Context& context_of(const Transformer& transformer) {
  return dynamic_cast<const DeviceTransformer&>(transformer).context();
}

template <class T>
PlainVector<T> fetched(const Context& context, const T* values, int64_t count) {
  PlainVector<T> host(static_cast<size_t>(count));
  context.transfers().download(values, Matrix<T>(host.data(), 1, count), context.stream());
  return host;
}

// A sum in device memory that begins at zero with the first batch.
template <class T>
class Sum {
 public:
  T* of(const Context& context, int64_t count) {
    if (values_.count() == 0) {
      values_ = context.array<T>(count);
      fill_zero(values_.data(), count * static_cast<int64_t>(sizeof(T)), context.stream());
    }
    return values_.data();
  }
  PlainVector<T> take(const Context& context) {
    PlainVector<T> host = fetched(context, values_.data(), values_.count());
    values_ = {};
    return host;
  }
  const T* data() const { return values_.data(); }
  void drop() { values_ = {}; }

 private:
  Array<T> values_;
};

PlainVector<float> means(const PlainVector<double>& sums, int64_t count) {
  PlainVector<float> result;
  result.reserve(sums.size());
  for (const double sum : sums) result.push_back(static_cast<float>(sum / static_cast<double>(count)));
  return result;
}

class MagnitudeHistogram final : public Collector {
 public:
  explicit MagnitudeHistogram(const Transformer& transformer) : context_(context_of(transformer)) {}
  void observe(ConstActivations x) override {
    add_histogram(view(x), counts_.of(context_, x.cols * kHistogramBins), context_.stream());
  }
  PlainVector<float> finish() override {
    const PlainVector<uint32_t> counts = counts_.take(context_);
    return {counts.begin(), counts.end()};
  }

 private:
  const Context& context_;
  Sum<uint32_t> counts_;
};

class SignedHistogram final : public Collector {
 public:
  explicit SignedHistogram(const Transformer& transformer) : context_(context_of(transformer)) {}
  void observe(ConstActivations x) override {
    add_signed_histogram(view(x), sums_.of(context_, x.cols * kHistogramBins), context_.stream());
    tokens_ += x.rows;
  }
  PlainVector<float> finish() override { return means(sums_.take(context_), tokens_); }

 private:
  const Context& context_;
  Sum<double> sums_;
  int64_t tokens_ = 0;
};

// sum += left^T right over the tokens of all batches: float32 products over a batch, float64 over batches.
class GramSum {
 public:
  explicit GramSum(const Context& context) : context_(context) {}

  void add(ConstView left, ConstView right) {
    multiply(left, right, part(left.cols));
    take_part(left.rows);
  }
  // x^T x, of which the upper triangle counts: some rows at a time, from the block on the diagonal on.
  void add_square(ConstView x) {
    constexpr int64_t kPanels = 4, kUnit = 128;
    const int64_t size = x.cols, step = std::max(kUnit, (size / kPanels + kUnit - 1) / kUnit * kUnit);
    const View all = part(size);
    for (int64_t begin = 0; begin < size; begin += step) {
      const int64_t end = std::min(begin + step, size);
      multiply(cols_between(x, begin, end), cols_between(x, begin, size),
               all.rows_between(begin, end).cols_between(begin, size));
    }
    take_part(x.rows);
  }
  // The mean over tokens; both halves alike if `symmetric`. [size, size]
  PlainVector<float> finish(bool symmetric) {
    if (size_ == 0) return {};
    scale_to_float(sum_.data(), 1.0 / static_cast<double>(tokens_), size_, symmetric, part_.data(),
                   context_.stream());
    PlainVector<float> host = fetched(context_, part_.data(), size_ * size_);
    sum_.drop();
    part_ = {};
    return host;
  }

 private:
  static ConstView cols_between(ConstView x, int64_t begin, int64_t end) {
    x.data = static_cast<const char*>(x.data) + begin * size_of(x.type);
    x.cols = end - begin;
    return x;
  }
  View part(int64_t size) {
    if (part_.count() == 0) {
      part_ = context_.array<float>(size * size);
      fill_zero(part_.data(), size * size * static_cast<int64_t>(sizeof(float)), context_.stream());
      size_ = size;
    }
    return {part_.data(), size, size, size, Type::f32};
  }
  void multiply(ConstView left, ConstView right, View to) const {
    context_.gemm().tn(left, right, to, 1.0f, 0.0f, context_.stream());
  }
  void take_part(int64_t tokens) {
    add_to_double(part_.data(), sum_.of(context_, size_ * size_), size_ * size_, context_.stream());
    tokens_ += tokens;
  }

  const Context& context_;
  Array<float> part_;
  Sum<double> sum_;
  int64_t tokens_ = 0, size_ = 0;
};

class SecondMoment final : public Collector {
 public:
  explicit SecondMoment(const Transformer& transformer) : sum_(context_of(transformer)) {}
  void observe(ConstActivations x) override { sum_.add_square(view(x)); }
  PlainVector<float> finish() override { return sum_.finish(true); }

 private:
  GramSum sum_;
};

class InputDrift final : public DriftCollector {
 public:
  explicit InputDrift(const Transformer& transformer)
      : context_(context_of(transformer)), sum_(context_of(transformer)) {}
  void observe(ConstActivations x, ConstActivations x_float) override {
    const Tensor drift = context_.tensor(x.rows, x.cols, view(x).type);
    subtract(view(x_float), view(x), view(drift.view()), context_.stream());
    sum_.add(view(drift.view()), view(x));
  }
  PlainVector<float> finish() override { return sum_.finish(false); }

 private:
  const Context& context_;
  GramSum sum_;
};

class MeanMagnitude final : public Collector {
 public:
  explicit MeanMagnitude(const Transformer& transformer) : context_(context_of(transformer)) {}
  void observe(ConstActivations x) override {
    add_magnitudes(view(x), sums_.of(context_, x.cols), nullptr, context_.stream());
    tokens_ += x.rows;
  }
  PlainVector<float> finish() override { return means(sums_.take(context_), tokens_); }

 private:
  const Context& context_;
  Sum<double> sums_;
  int64_t tokens_ = 0;
};

class MaxMagnitude final : public Collector {
 public:
  explicit MaxMagnitude(const Transformer& transformer) : context_(context_of(transformer)) {}
  void observe(ConstActivations x) override {
    add_magnitudes(view(x), nullptr, largest_.of(context_, x.cols), context_.stream());
  }
  PlainVector<float> finish() override { return largest_.take(context_); }

 private:
  const Context& context_;
  Sum<float> largest_;
};

// The tokens that calib/sampled_inputs.cpp takes.
class SampledInputs final : public Collector {
 public:
  explicit SampledInputs(const Transformer& transformer) : transformer_(transformer) {}

  void observe(ConstActivations x) override {
    std::vector<int32_t> wanted;  // at the stride as it is: a superset of what is kept in the end
    for (int64_t t = 0; t < x.rows; ++t)
      if ((seen_ + t) % stride_ == 0) wanted.push_back(static_cast<int32_t>(t));
    if (!wanted.empty()) keep(x, wanted);
    seen_ += x.rows;
  }

  PlainVector<float> finish() override {
    PlainVector<float> values;
    for (const std::vector<float>& row : rows_) values.insert(values.end(), row.begin(), row.end());
    rows_.clear();
    return values;
  }

 private:
  static constexpr size_t kTokens = 512;

  void keep(ConstActivations x, const std::vector<int32_t>& wanted) {
    const Context& context = context_of(transformer_);
    const auto count = static_cast<int64_t>(wanted.size());
    const Array<int32_t> indices = context.upload(wanted.data(), count);
    const Tensor picked = context.tensor(count, x.cols, view(x).type);
    copy_rows(view(x), indices.data(), view(picked.view()), context.stream());
    const MatrixBuffer<float> host = transformer_.to_host(picked);
    for (int64_t i = 0; i < count; ++i) {
      if ((seen_ + wanted[static_cast<size_t>(i)]) % stride_ != 0) continue;
      if (rows_.size() == kTokens) {
        for (size_t j = 0; 2 * j < rows_.size(); ++j) std::swap(rows_[j], rows_[2 * j]);
        rows_.resize((rows_.size() + 1) / 2);
        stride_ *= 2;
      }
      rows_.emplace_back(host.row(i), host.row(i) + x.cols);
    }
  }

  const Transformer& transformer_;
  std::vector<std::vector<float>> rows_;
  int64_t seen_ = 0, stride_ = 1;
};

class FisherDiagonal final : public GradientCollector {
 public:
  explicit FisherDiagonal(const Transformer& transformer) : context_(context_of(transformer)) {}

  void observe(ConstActivations x, ConstActivations dy) override {
    const int64_t count = dy.cols * x.cols;
    const Array<float> gradient = context_.array<float>(count);
    Bytes storage;
    context_.gemm().tn(in_type(context_, view(dy), view(x).type, storage), view(x),
                       {gradient.data(), dy.cols, x.cols, x.cols, Type::f32}, 1.0f, 0.0f, context_.stream());
    add_scaled_squares(gradient.data(), 1.0f / static_cast<float>(x.rows - 1), sum_.of(context_, count),
                       count, context_.stream());
    ++sequences_;
  }

  PlainVector<float> finish() override {
    PlainVector<float> mean = sum_.take(context_);
    const float share = 1.0f / static_cast<float>(sequences_);
    const auto count = static_cast<int64_t>(mean.size());
    parallel_for((count + kTask - 1) / kTask, [&](int64_t task) {
      for (int64_t i = task * kTask; i < std::min((task + 1) * kTask, count); ++i)
        mean[static_cast<size_t>(i)] *= share;
    });
    return mean;
  }

 private:
  static constexpr int64_t kTask = 1 << 20;
  const Context& context_;
  Sum<float> sum_;
  int64_t sequences_ = 0;
};

class OutputGradient final : public GradientCollector {
 public:
  explicit OutputGradient(const Transformer& transformer) : context_(context_of(transformer)) {}
  void observe(ConstActivations, ConstActivations dy) override {
    add_squares(view(dy), sums_.of(context_, dy.cols), context_.stream());
    predictions_ += dy.rows - 1;
  }
  PlainVector<float> finish() override { return means(sums_.take(context_), predictions_); }

 private:
  const Context& context_;
  Sum<double> sums_;
  int64_t predictions_ = 0;
};

const RegisterDeviceCollector<Collector, MagnitudeHistogram> magnitude_histogram{Device::cuda,
                                                                                 "magnitude_histogram"};
const RegisterDeviceCollector<Collector, SignedHistogram> signed_histogram{Device::cuda, "signed_histogram"};
const RegisterDeviceCollector<Collector, SecondMoment> second_moment{Device::cuda, "second_moment"};
const RegisterDeviceCollector<Collector, MeanMagnitude> mean_magnitude{Device::cuda, "mean_magnitude"};
const RegisterDeviceCollector<Collector, MaxMagnitude> max_magnitude{Device::cuda, "max_magnitude"};
const RegisterDeviceCollector<Collector, SampledInputs> sampled_inputs{Device::cuda, "sampled_inputs"};
const RegisterDeviceCollector<DriftCollector, InputDrift> input_drift{Device::cuda, "input_drift"};
const RegisterDeviceCollector<GradientCollector, FisherDiagonal> fisher_diagonal{Device::cuda,
                                                                                 "fisher_diagonal"};
const RegisterDeviceCollector<GradientCollector, OutputGradient> output_gradient{Device::cuda,
                                                                                 "output_gradient"};

}  // namespace
}  // namespace grinqh::cuda
