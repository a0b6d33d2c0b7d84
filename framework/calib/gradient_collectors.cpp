// The framework's gradient collectors.
#include <algorithm>
#include <vector>

#include "core/error.h"
#include "core/gemm.h"
#include "core/parallel.h"
#include "core/registry.h"
#include "quant/gradient_collector.h"

namespace grinqh {
namespace {

// The diagonal of the empirical Fisher information of the weights, [out, in]: the mean over sequences of the
// squared gradient of the sequence's loss. As in the public code of SqueezeLLM (Kim et al., 2306.07629) and
// Any-Precision LLM (Park et al., 2402.10517), that loss is the mean over the sequence's predictions. Sums
// are float32, for there is one a weight of the model; the terms are positive and as many as sequences, so n
// of them cost a relative error of at most n 2^-24.
class FisherDiagonal final : public GradientCollector {
 public:
  struct Options {
    template <class V>
    void fields(V&) {}
  };
  explicit FisherDiagonal(Options) {}

  void observe(ConstActivations inputs, ConstActivations gradients) override {
    const Matrix<const float> x = inputs.matrix(), dy = gradients.matrix();
    constexpr int64_t kTile = 256;
    sum_.resize(static_cast<size_t>(dy.cols * x.cols), 0.0f);
    const Matrix<float> sum(sum_.data(), dy.cols, x.cols);
    const int64_t across = (x.cols + kTile - 1) / kTile;
    const float share = 1.0f / static_cast<float>(x.rows - 1);
    parallel_for((dy.cols + kTile - 1) / kTile * across, [&](int64_t task) {
      const int64_t row = task / across * kTile, col = task % across * kTile;
      const int64_t rows = std::min(kTile, dy.cols - row), cols = std::min(kTile, x.cols - col);
      MatrixBuffer<float> gradient(rows, cols);
      matmul_tn_serial(dy.cols_between(row, row + rows), x.cols_between(col, col + cols), gradient, share);
      for (int64_t n = 0; n < rows; ++n) {
        const float* from = gradient.row(n);
        float* to = sum.row(row + n) + col;
        for (int64_t i = 0; i < cols; ++i) to[i] += from[i] * from[i];
      }
    });
    ++sequences_;
  }

  PlainVector<float> finish() override {
    const float share = 1.0f / static_cast<float>(sequences_);
    for (float& value : sum_) value *= share;
    return std::move(sum_);
  }

 private:
  PlainVector<float> sum_;  // [out, in]
  int64_t sequences_ = 0;
};

// Mean over all predictions of the squared gradient of the summed loss in each output. [out]
class OutputGradient final : public GradientCollector {
 public:
  struct Options {
    template <class V>
    void fields(V&) {}
  };
  explicit OutputGradient(Options) {}

  void observe(ConstActivations, ConstActivations gradients) override {
    const Matrix<const float> dy = gradients.matrix();
    constexpr int64_t kTaskOutputs = 64;
    sum_.resize(static_cast<size_t>(dy.cols));
    parallel_for((dy.cols + kTaskOutputs - 1) / kTaskOutputs, [&](int64_t task) {
      const int64_t begin = task * kTaskOutputs, end = std::min(begin + kTaskOutputs, dy.cols);
      for (int64_t t = 0; t < dy.rows; ++t)
        for (int64_t n = begin; n < end; ++n) {
          const auto value = static_cast<double>(dy(t, n));
          sum_[static_cast<size_t>(n)] += value * value;
        }
    });
    predictions_ += dy.rows - 1;
  }

  PlainVector<float> finish() override {
    PlainVector<float> mean;
    for (const double sum : sum_) mean.push_back(static_cast<float>(sum / static_cast<double>(predictions_)));
    return mean;
  }

 private:
  std::vector<double> sum_;  // [out]
  int64_t predictions_ = 0;
};

const Register<GradientCollector, FisherDiagonal> fisher_diagonal{
    "fisher_diagonal",
    "mean over sequences of the squared gradient of the sequence's mean loss in every weight"};

const Register<GradientCollector, OutputGradient> output_gradient{
    "output_gradient", "mean over predictions of the squared gradient of the summed loss in every output"};

}  // namespace
}  // namespace grinqh
