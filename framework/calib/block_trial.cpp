#include "calib/block_trial.h"

#include <algorithm>

#include "core/progress.h"

namespace grinqh {

namespace {

class Trial final : public BlockTrial {
 public:
  Trial(const Transformer& transformer, const QuantizedModel& quantized, const PrecisionPolicy& policy,
        const Batch& batch)
      : transformer_(transformer),
        batch_(batch),
        x_(transformer.embed(batch)),
        linears_(transformer.quantized_linears(quantized, &policy)) {
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
    const Tensor y = transformer_.copy_of(x_);
    linears_->begin_batch(batch_.steps);
    transformer_.run_block(block_, batch_, y, *linears_, nullptr);
    return transformer_.squared_distance(y, y_float_) / change_;
  }

 private:
  void enter() {
    y_float_ = transformer_.copy_of(x_);
    const auto linears = transformer_.float_linears();
    linears->begin_batch(batch_.steps);
    transformer_.run_block(block_, batch_, y_float_, *linears, nullptr);
    change_ = transformer_.squared_distance(y_float_, x_);
    if (!(change_ > 0)) fail("block {}: leaves the calibration text's hidden states as they are", block_);
  }

  const Transformer& transformer_;
  const Batch& batch_;
  Tensor x_, y_float_;
  std::unique_ptr<QuantizedExecutor> linears_;
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
  for (Trial trial(transformer, quantized, policy, batch); !trial.done(); trial.advance()) {
    if (!trial.layers().empty()) policy.tune(trial);
    progress.advance(1);
  }
}

}  // namespace grinqh
