#include "calib/block_trial.h"

#include <algorithm>

#include "core/progress.h"

namespace grinqh {

namespace {

// Squared length of a - b in float64.
double squared_distance(Matrix<const float> a, Matrix<const float> b) {
  double sum = 0;
  for (int64_t t = 0; t < a.rows; ++t)
    for (int64_t i = 0; i < a.cols; ++i) {
      const double difference = static_cast<double>(a(t, i)) - static_cast<double>(b(t, i));
      sum += difference * difference;
    }
  return sum;
}

MatrixBuffer<float> copy_of(Matrix<const float> x) {
  MatrixBuffer<float> copy(x.rows, x.cols);
  for (int64_t t = 0; t < x.rows; ++t) std::copy_n(x.row(t), x.cols, copy.row(t));
  return copy;
}

class Trial final : public BlockTrial {
 public:
  Trial(const Transformer& transformer, const QuantizedModel& quantized, const PrecisionPolicy& policy,
        const Batch& batch, Matrix<const float> x)
      : transformer_(transformer), batch_(batch), x_(copy_of(x)), linears_(quantized, &policy) {
    for (const BlockWeights& block : transformer.model().blocks) {
      std::vector<std::string>& ids = layers_.emplace_back();
      for (const auto& site : inputs_of(block))
        for (const LinearWeights* layer : site)
          if (quantized.layers.contains(layer->id)) ids.push_back(layer->id);
    }
    enter();
  }

  bool done() const { return block_ == transformer_.blocks(); }
  // The next block, on what the float model gives it.
  void advance() {
    x_ = std::move(y_float_);
    ++block_;
    if (!done()) enter();
  }

  const std::vector<std::string>& layers() const override { return layers_[static_cast<size_t>(block_)]; }

  double error() override {
    MatrixBuffer<float> y = copy_of(x_);
    linears_.begin_batch(batch_.steps);
    transformer_.run_block(block_, batch_, y, linears_, nullptr);
    return squared_distance(y, y_float_) / change_;
  }

 private:
  void enter() {
    y_float_ = copy_of(x_);
    FloatLinears linears;
    transformer_.run_block(block_, batch_, y_float_, linears, nullptr);
    change_ = squared_distance(y_float_, x_);
    if (!(change_ > 0)) fail("block {}: leaves the calibration text's hidden states as they are", block_);
  }

  const Transformer& transformer_;
  const Batch& batch_;
  MatrixBuffer<float> x_, y_float_;
  QuantizedLinears linears_;
  std::vector<std::vector<std::string>> layers_;
  int64_t block_ = 0;
  double change_ = 0;
};

}  // namespace

void tune_on_blocks(const Transformer& transformer, const QuantizedModel& quantized,
                    Matrix<const int32_t> windows, PrecisionPolicy& policy) {
  if (!policy.tunes()) return;
  const Batch batch = Batch::of_windows(windows.rows_between(0, std::min(kTrialWindows, windows.rows)), 0);
  Progress progress("tuning", transformer.blocks(), "blocks");
  const MatrixBuffer<float> embedded = transformer.embed(batch);
  for (Trial trial(transformer, quantized, policy, batch, embedded); !trial.done(); trial.advance()) {
    if (!trial.layers().empty()) policy.tune(trial);
    progress.advance(1);
  }
}

}  // namespace grinqh
