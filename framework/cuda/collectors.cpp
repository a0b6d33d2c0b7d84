// The collectors of calib/collectors.cpp, sampled_inputs.cpp and gradient_collectors.cpp for activations on
// the device, under the same names.
#include <algorithm>
#include <vector>

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
  std::vector<T> take(const Context& context) {
    std::vector<T> host(static_cast<size_t>(values_.count()));
    if (!host.empty())
      to_host(values_.data(), host.data(), values_.count() * static_cast<int64_t>(sizeof(T)),
              context.stream());
    values_ = {};
    return host;
  }
  const T* data() const { return values_.data(); }
  void drop() { values_ = {}; }

 private:
  Array<T> values_;
};

std::vector<float> means(const std::vector<double>& sums, int64_t count) {
  std::vector<float> result;
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
  std::vector<float> finish() override {
    const std::vector<uint32_t> counts = counts_.take(context_);
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
  std::vector<float> finish() override { return means(sums_.take(context_), tokens_); }

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
    const int64_t rows = left.cols, cols = right.cols;
    if (part_.count() == 0) part_ = context_.array<float>(rows * cols);
    context_.gemm().tn(left, right, {part_.data(), rows, cols, cols, Type::f32}, 1.0f, 0.0f,
                       context_.stream());
    add_to_double(part_.data(), sum_.of(context_, rows * cols), rows * cols, context_.stream());
    tokens_ += left.rows;
    size_ = rows;
  }
  // The mean over tokens; both halves alike if `symmetric`. [size, size]
  std::vector<float> finish(bool symmetric) {
    std::vector<float> host(static_cast<size_t>(size_ * size_));
    if (host.empty()) return host;
    scale_to_float(sum_.data(), 1.0 / static_cast<double>(tokens_), size_, symmetric, part_.data(),
                   context_.stream());
    to_host(part_.data(), host.data(), size_ * size_ * static_cast<int64_t>(sizeof(float)),
            context_.stream());
    sum_.drop();
    part_ = {};
    return host;
  }

 private:
  const Context& context_;
  Array<float> part_;
  Sum<double> sum_;
  int64_t tokens_ = 0, size_ = 0;
};

class SecondMoment final : public Collector {
 public:
  explicit SecondMoment(const Transformer& transformer) : sum_(context_of(transformer)) {}
  void observe(ConstActivations x) override { sum_.add(view(x), view(x)); }
  std::vector<float> finish() override { return sum_.finish(true); }

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
  std::vector<float> finish() override { return sum_.finish(false); }

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
  std::vector<float> finish() override { return means(sums_.take(context_), tokens_); }

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
  std::vector<float> finish() override { return largest_.take(context_); }

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

  std::vector<float> finish() override {
    std::vector<float> values;
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

  std::vector<float> finish() override {
    std::vector<float> mean = sum_.take(context_);
    const float share = 1.0f / static_cast<float>(sequences_);
    for (float& value : mean) value *= share;
    return mean;
  }

 private:
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
  std::vector<float> finish() override { return means(sums_.take(context_), predictions_); }

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
