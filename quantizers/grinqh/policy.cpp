// Graded precision (GRINQH, arXiv 2606.23419; the rule is derived in PROVENANCE.md). The squared output error
// of reading channel i at level b is x_i^2 eps_i(b) with eps_i(b) = ||W[:,i] - D_b[:,i]||^2. Minimizing it
// under a mean number of bits raises a channel from level b_k to b_(k+1) where
//
//   |x_i| > sqrt(lambda (b_(k+1) - b_k) / (eps_i(b_k) - eps_i(b_(k+1)))),
//
// so one scalar lambda a layer sets the budget; it is solved on the calibration's magnitude histograms.
#include <algorithm>
#include <cmath>
#include <map>

#include "core/parallel.h"
#include "quant/grading.h"
#include "quant/log_histogram.h"
#include "quant/precision_policy.h"

namespace grinqh {
namespace {

constexpr const char* kHistogram = "magnitude_histogram";

// Squared error of every channel at every level. [levels][in]
using LevelErrors = std::vector<std::vector<double>>;

LevelErrors level_errors(const LinearTask& task, const QuantizedLinear& quantized,
                         std::span<const Level> levels) {
  LevelErrors errors;
  for (const Level level : levels) {
    std::vector<double>& error = errors.emplace_back(static_cast<size_t>(quantized.in()));
    const MatrixBuffer<float> w = level == 0 ? MatrixBuffer<float>::zeroed(quantized.out(), quantized.in())
                                             : quantized.dequantize(level);
    for (int64_t row = 0; row < quantized.out(); ++row)
      for (int64_t i = 0; i < quantized.in(); ++i) {
        const double difference = static_cast<double>(task.weight(row, i)) - w.view()(row, i);
        error[static_cast<size_t>(i)] += difference * difference;
      }
  }
  return errors;
}

// sqrt(bits / error saved) of each step between neighbouring levels, made ascending: steps that would come
// out of order are taken together (the lower convex hull of error over bits).
std::vector<double> step_thresholds(std::span<const Level> levels, std::span<const double> errors) {
  struct Run {
    double bits, saved;
    size_t steps;
    double price() const { return saved > 0 ? bits / saved : HUGE_VAL; }
  };
  std::vector<Run> runs;
  for (size_t k = 0; k + 1 < levels.size(); ++k) {
    runs.push_back({static_cast<double>(levels[k + 1] - levels[k]), errors[k] - errors[k + 1], 1});
    while (runs.size() > 1 && runs[runs.size() - 2].price() >= runs.back().price()) {
      const Run last = runs.back();
      runs.pop_back();
      runs.back().bits += last.bits, runs.back().saved += last.saved, runs.back().steps += last.steps;
    }
  }
  std::vector<double> thresholds;
  for (const Run& run : runs) thresholds.insert(thresholds.end(), run.steps, std::sqrt(run.price()));
  return thresholds;
}

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
    layer.thresholds = unit_thresholds(task, quantized, layer.levels);
    const float scale = solve_scale(task.stats.at(kHistogram), layer);
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

  // Thresholds at lambda = 1. [steps, in]
  MatrixBuffer<float> unit_thresholds(const LinearTask& task, const QuantizedLinear& quantized,
                                      std::span<const Level> levels) const {
    const auto in = static_cast<size_t>(quantized.in());
    LevelErrors errors = level_errors(task, quantized, levels);
    if (options_.score == "magnitude")
      for (std::vector<double>& error : errors) {
        double mean = 0;
        for (const double e : error) mean += e / static_cast<double>(in);
        std::ranges::fill(error, mean);
      }
    MatrixBuffer<float> thresholds(static_cast<int64_t>(levels.size()) - 1, quantized.in());
    std::vector<double> channel(levels.size());
    for (size_t i = 0; i < in; ++i) {
      for (size_t k = 0; k < levels.size(); ++k) channel[k] = errors[k][i];
      const std::vector<double> steps = step_thresholds(levels, channel);
      for (size_t k = 0; k < steps.size(); ++k)
        thresholds.row(static_cast<int64_t>(k))[i] = static_cast<float>(steps[k]);
    }
    return thresholds;
  }

  // The factor on all thresholds (sqrt(lambda)) at which the histograms' mean bits meet the budget.
  float solve_scale(std::span<const float> histogram, const Layer& layer) const {
    const int64_t in = layer.thresholds.cols();
    std::vector<MagnitudeDistribution> channels;
    for (int64_t i = 0; i < in; ++i)
      channels.emplace_back(
          histogram.subspan(static_cast<size_t>(i * LogHistogram::kBins), LogHistogram::kBins));
    const auto mean_bits = [&](double scale) {
      double sum = 0;
      for (int64_t i = 0; i < in; ++i)
        for (size_t k = 0; k + 1 < layer.levels.size(); ++k)
          sum += (layer.levels[k + 1] - layer.levels[k]) *
                 channels[static_cast<size_t>(i)].share_above(
                     scale * layer.thresholds.row(static_cast<int64_t>(k))[i]);
      return layer.levels.front() + sum / static_cast<double>(in);
    };
    // Mean bits fall as the scale grows; bisection on its logarithm.
    double low = -60, high = 60;
    for (int step = 0; step < 60; ++step) {
      const double middle = 0.5 * (low + high);
      (mean_bits(std::exp2(middle)) > options_.bits ? low : high) = middle;
    }
    return static_cast<float>(std::exp2(0.5 * (low + high)));
  }

  Options options_;
  std::map<std::string, Layer, std::less<>> layers_;
};

const Register<PrecisionPolicy, GradedPolicy> plugin{
    "grinqh", "levels per token and channel from |x| and a bit budget"};

}  // namespace
}  // namespace grinqh
