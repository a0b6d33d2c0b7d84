// Graded precision (GRINQH, arXiv 2606.23419; the rule is reconstructed, see PROVENANCE.md): every decoded
// token reads each input channel at a level that its activation decides, by the optimal grading of
// quant/grading_rule.h, whose scalar is solved on the calibration's magnitude histograms.
#include <algorithm>
#include <functional>
#include <map>
#include <numeric>

#include "core/parallel.h"
#include "quant/grading.h"
#include "quant/grading_rule.h"
#include "quant/precision_policy.h"

namespace grinqh {
namespace {

constexpr const char* kHistogram = "magnitude_histogram";

class GradedPolicy final : public PrecisionPolicy {
 public:
  struct Options {
    double bits = 3.0;
    std::string score = "error";
    std::vector<int> levels;
    template <class V>
    void fields(V& v) {
      v("bits", bits, Range{0, 8}, "mean code bits read a weight that thresholds are solved for");
      v("score", score, OneOf{{"magnitude", "error"}},
        "what a channel is graded by: |x| with the layer's error per level, or |x| with the channel's own");
      v("levels", levels, Range{0, 8}, "levels to choose from; empty: all that the layer stores");
    }
    void validate() const {
      if (!std::ranges::is_sorted(levels, std::less_equal<>()))
        bad_input("levels = {}: allowed are ascending widths", Json(levels).dump());
    }
  };

  explicit GradedPolicy(Options options) : options_(std::move(options)) {}

  CollectorNames needs() const override { return {kHistogram}; }

  void prepare(const LinearTask& task, const QuantizedLinear& quantized) override {
    Layer layer;
    layer.levels.assign(quantized.levels().begin(), quantized.levels().end());
    if (!options_.levels.empty()) layer.levels.assign(options_.levels.begin(), options_.levels.end());
    for (const Level level : layer.levels) quantized.resolve(level);
    if (options_.bits < layer.levels.front() || options_.bits > layer.levels.back())
      bad_input("policy 'grinqh': bits = {}: allowed is {} to {}, what the levels span", options_.bits,
                layer.levels.front(), layer.levels.back());
    MatrixBuffer<double> errors = level_errors(task.weight, quantized, layer.levels);
    if (options_.score == "magnitude") average_channels(errors);
    layer.thresholds = unit_thresholds(errors.view(), layer.levels);
    const auto scale = static_cast<float>(solve_threshold_scale(
        task.stats.at(kHistogram), layer.thresholds.view(), layer.levels, options_.bits));
    for (int64_t i = 0; i < layer.thresholds.size(); ++i) layer.thresholds.data()[i] *= scale;
    for (size_t k = 0; k + 1 < layer.levels.size(); ++k)
      layer.increments.push_back(static_cast<Level>(layer.levels[k + 1] - layer.levels[k]));
    layers_.insert_or_assign(task.id, std::move(layer));
  }

  Precision choose(const std::string& id, std::span<const Step>, Matrix<const float> x,
                   Matrix<Level> scratch) const override {
    const Layer& layer = layers_.at(id);
    constexpr int64_t kTaskTokens = 64;
    parallel_for((x.rows + kTaskTokens - 1) / kTaskTokens, [&](int64_t task) {
      for (int64_t t = task * kTaskTokens; t < std::min((task + 1) * kTaskTokens, x.rows); ++t)
        grade(x.row_span(t), layer.thresholds.view(), layer.increments, layer.levels.front(),
              scratch.row_span(t));
    });
    return {kFullLevel, scratch};
  }

 private:
  struct Layer {
    std::vector<Level> levels, increments;
    MatrixBuffer<float> thresholds;  // [steps, in]
  };

  // |x| alone as the score: every channel has the layer's mean error.
  static void average_channels(MatrixBuffer<double>& errors) {
    for (int64_t k = 0; k < errors.rows(); ++k) {
      const double sum = std::accumulate(errors.row(k), errors.row(k) + errors.cols(), 0.0);
      std::fill_n(errors.row(k), errors.cols(), sum / static_cast<double>(errors.cols()));
    }
  }

  Options options_;
  std::map<std::string, Layer, std::less<>> layers_;
};

const Register<PrecisionPolicy, GradedPolicy> plugin{
    "grinqh", "levels per token and channel from |x| and a bit budget"};

}  // namespace
}  // namespace grinqh
