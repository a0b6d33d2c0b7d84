// Graded precision (GRINQH, arXiv 2606.23419; the rule is reconstructed, see PROVENANCE.md): every decoded
// token reads each input channel at a level that its activation decides, by the optimal grading of
// quant/grading_rule.h, whose scalar is solved on the calibration's magnitude histograms.
#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>

#include "quant/grading_rule.h"
#include "quant/optional_weights.h"
#include "quant/precision_policy.h"

namespace grinqh {
namespace {

constexpr const char* kHistogram = "magnitude_histogram";
constexpr const char* kSums = "signed_histogram";
constexpr const char* kGradient = "output_gradient";

class GradedPolicy final : public PrecisionPolicy, public OptionalWeights {
 public:
  struct Options {
    double bits = 3.0;
    std::string score = "error", budget = "price", selection = "threshold";
    std::vector<int> levels;
    int64_t full_tokens = 0;
    bool offset = false;
    template <class V>
    void fields(V& v) {
      v("bits", bits, Range{0, 8}, "mean code bits read a weight that thresholds are solved for");
      v("score", score, OneOf{{"magnitude", "error"}},
        "what a channel is graded by: |x| with the layer's error per level, or |x| with the channel's own");
      v("budget", budget, OneOf{{"uniform", "price", "greedy"}},
        "bits of a layer: the same for all; one price for all, errors weighted by the loss's squared "
        "gradient; "
        "or whatever hurts a block's output least");
      v("selection", selection, OneOf{{"threshold", "exact"}},
        "fixed thresholds, so that tokens differ in bits; or for each token the thresholds that meet the "
        "budget");
      v("levels", levels, Range{0, 8}, "levels to choose from; empty: all that the layer stores");
      v("full_tokens", full_tokens, Range{0, 1 << 20}, "first tokens of a sequence that read everything");
      v("offset", offset, "adds the mean of what is not read to a layer's output, as a bias");
    }
    void validate() const {
      if (!std::ranges::is_sorted(levels, std::less_equal<>()))
        bad_input("levels = {}: allowed are ascending widths", Json(levels).dump());
    }
  };

  explicit GradedPolicy(Options options) : options_(std::move(options)) {}

  CollectorNames needs() const override {
    CollectorNames names{kHistogram};
    if (options_.offset) names.insert(kSums);
    if (options_.budget == "price") names.insert(kGradient);
    return names;
  }

  bool looks_at_weights(const std::string& layer, const LayerStats& stats) const override {
    return options_.offset || !stats.derived || !kept(layer, *stats.derived);
  }
  void prepare(const LinearTask& task, const QuantizedLinear& quantized) override {
    Layer layer;
    layer.exact = options_.selection == "exact";
    layer.grading.full_tokens = options_.full_tokens;
    layer.grading.full = quantized.full_level();
    std::vector<Level>& levels = layer.grading.levels;
    levels.assign(quantized.levels().begin(), quantized.levels().end());
    if (!options_.levels.empty()) levels.assign(options_.levels.begin(), options_.levels.end());
    for (const Level level : levels) quantized.resolve(level);
    if (options_.bits < levels.front() || options_.bits > levels.back())
      bad_input("policy 'grinqh': bits = {}: allowed is {} to {}, what the levels span", options_.bits,
                levels.front(), levels.back());
    layer.graded = graded(task, quantized, levels);
    if (options_.offset) keep_residuals(task, quantized, layer);
    layers_.insert_or_assign(task.id, std::move(layer));
  }

  void allot() override {
    if (options_.budget == "price") {
      std::vector<const LayerBits*> all;
      for (const auto& [id, layer] : layers_) all.push_back(&layer.graded->bits);
      if (all.empty()) return;
      const double scale = solve_threshold_scale(all, options_.bits);
      for (auto& [id, layer] : layers_) layer.set_scale(scale);
    } else {
      for (auto& [id, layer] : layers_) layer.set_bits(options_.bits);
    }
  }

  bool tunes() const override { return options_.budget == "greedy"; }

  // After TEAL's block-wise greedy allocation (Liu et al., 2408.14690, algorithm 1), with bits for sparsity:
  // from more bits than there are, the layer gives way whose loss hurts the block's output least.
  void tune(BlockTrial& trial) override {
    constexpr double kHeadroom = 1.0;  // bits above the budget that the search starts from
    constexpr double kStep = 0.1;      // bits of the block's mean that one step gives up
    struct Candidate {
      Layer* layer;
      double bits, share;
    };
    std::vector<Candidate> candidates;
    double weights = 0;
    for (const std::string& id : trial.layers()) {
      Layer& layer = layers_.at(id);
      candidates.push_back({&layer, std::min<double>(options_.bits + kHeadroom, layer.grading.levels.back()),
                            layer.graded->bits.weights()});
      weights += layer.graded->bits.weights();
    }
    double mean = 0;
    for (Candidate& each : candidates) {
      each.share /= weights;
      each.layer->set_bits(each.bits);
      mean += each.share * each.bits;
    }
    while (mean > options_.bits) {
      const double step = std::min(kStep, mean - options_.bits);
      Candidate* best = nullptr;
      double least = HUGE_VAL;
      for (Candidate& each : candidates) {
        if (each.bits - step / each.share < each.layer->grading.levels.front()) continue;
        each.layer->set_bits(each.bits - step / each.share);
        if (const double error = trial.error(); error < least) least = error, best = &each;
        each.layer->set_bits(each.bits);
      }
      if (!best) fail("policy 'grinqh': no layer of {} can give up bits", trial.layers().front());
      best->bits -= step / best->share;
      best->layer->set_bits(best->bits);
      mean -= step;
    }
  }

  const ChannelGrading* grading(const std::string& id) const override { return &layers_.at(id).grading; }

  // Mean code bits that each layer's thresholds are for.
  Json findings() const override {
    if (options_.budget == "uniform") return nullptr;
    Json bits = Json::object();
    for (const auto& [id, layer] : layers_) bits[id] = layer.target;
    return {{"bits", bits}};
  }

  std::span<const float> offset(const std::string& id) const override { return layers_.at(id).offset; }

 private:
  // What a layer's thresholds are solved on, whatever the budget.
  struct Graded {
    MatrixBuffer<float> unit;  // thresholds at scale 1, [levels - 1, in]
    LayerBits bits;
    Graded(MatrixBuffer<float> thresholds, std::span<const float> histogram, std::span<const Level> levels,
           int64_t out)
        : unit(std::move(thresholds)), bits(histogram, unit.view(), levels, out) {}
  };
  struct Layer {
    ChannelGrading grading;  // in force
    std::shared_ptr<const Graded> graded;
    bool exact = false;
    double target = 0;  // mean bits that the thresholds in force are for
    // With an offset: E[x_i | bin] P(bin) of every channel, and by level what the weights are off by.
    std::vector<float> sums;                     // [in, LogHistogram::kBins]
    std::vector<MatrixBuffer<float>> residuals;  // by level [out, in]
    std::vector<float> offset;                   // [out]

    void set_bits(double mean) {
      const LayerBits* const own[] = {&graded->bits};
      set_scale(solve_threshold_scale(own, mean));
    }
    void set_scale(double scale) {
      const MatrixBuffer<float>& unit = graded->unit;
      target = graded->bits.mean(scale);
      if (exact) grading.budget = target;
      grading.thresholds = MatrixBuffer<float>(unit.rows(), unit.cols());
      for (int64_t i = 0; i < unit.size(); ++i)
        grading.thresholds.data()[i] = unit.data()[i] * static_cast<float>(scale);
      if (!residuals.empty()) find_offset();
    }

    // sum over levels and channels of E[x_i 1(level = b)] (W - D_b)[:, i].
    void find_offset() {
      const MatrixBuffer<float>& thresholds = grading.thresholds;
      const int64_t in = thresholds.cols();
      std::vector<double> sum(static_cast<size_t>(residuals.front().rows()), 0.0);
      for (size_t k = 0; k < residuals.size(); ++k)
        for (int64_t i = 0; i < in; ++i) {
          const auto at = static_cast<int64_t>(k);
          const double from = k == 0 ? 0.0 : static_cast<double>(thresholds.row(at - 1)[i]);
          const double to = at < thresholds.rows() ? static_cast<double>(thresholds.row(at)[i]) : HUGE_VAL;
          const double mean = mean_between(i, from, to);
          for (size_t n = 0; n < sum.size(); ++n)
            sum[n] += mean * static_cast<double>(residuals[k].row(static_cast<int64_t>(n))[i]);
        }
      offset.assign(sum.begin(), sum.end());
    }

    // E[x_i 1(from < |x_i| <= to)], values taken as evenly spread within a bin.
    double mean_between(int64_t channel, double from, double to) const {
      double sum = 0;
      for (int bin = 0; bin < LogHistogram::kBins; ++bin) {
        const double low = LogHistogram::lower_edge(bin), high = LogHistogram::lower_edge(bin + 1);
        const double inside = std::min(high, to) - std::max(low, from);
        if (inside > 0)
          sum += static_cast<double>(sums[static_cast<size_t>(channel * LogHistogram::kBins + bin)]) *
                 inside / (high - low);
      }
      return sum;
    }
  };

  static void keep_residuals(const LinearTask& task, const QuantizedLinear& quantized, Layer& layer) {
    const std::span<const float> sums = task.stats.at(kSums);
    layer.sums.assign(sums.begin(), sums.end());
    for (const Level level : layer.grading.levels) {
      MatrixBuffer<float>& residual = layer.residuals.emplace_back(task.weight.rows, task.weight.cols);
      MatrixBuffer<float> decoded;
      if (level > 0) decoded = quantized.dequantize(level);
      for (int64_t row = 0; row < task.weight.rows; ++row)
        for (int64_t i = 0; i < task.weight.cols; ++i)
          residual.row(row)[i] = task.weight(row, i) - (level > 0 ? decoded.row(row)[i] : 0.0f);
    }
  }

  // Of the weights, the levels and the options, but for the budget: computed once for all policies.
  std::shared_ptr<const Graded> graded(const LinearTask& task, const QuantizedLinear& quantized,
                                       const std::vector<Level>& levels) const {
    const auto find = [&] {
      const bool price = options_.budget == "price";
      const MatrixBuffer<double> errors = level_errors(
          task.weight, quantized, levels, price ? task.stats.at(kGradient) : std::span<const float>());
      MatrixBuffer<float> unit =
          unit_thresholds(options_.score == "magnitude" ? averaged(errors).view() : errors.view(), levels);
      // A channel costs its bits in every row.
      if (price) multiply(unit, std::sqrt(static_cast<float>(task.weight.rows)));
      return Graded(std::move(unit), task.stats.at(kHistogram), levels, task.weight.rows);
    };
    if (!task.stats.derived) return std::make_shared<const Graded>(find());
    std::shared_ptr<const Graded>& place = kept(task.id, *task.stats.derived);
    if (!place) place = std::make_shared<const Graded>(find());
    return place;
  }
  // Where the first policy leaves it for the others; null before.
  std::shared_ptr<const Graded>& kept(const std::string& layer, Derived& derived) const {
    using Place = std::shared_ptr<std::shared_ptr<const Graded>>;
    const std::function<Place()> make = [] { return std::make_shared<std::shared_ptr<const Graded>>(); };
    return **derived.get(
        fmt::format("{}: graded by {}, levels {}{}", layer, options_.score, Json(options_.levels).dump(),
                    options_.budget == "price" ? ", at their price" : ""),
        make);
  }

  // |x| alone as the score: every channel has the layer's mean error.
  static MatrixBuffer<double> averaged(const MatrixBuffer<double>& errors) {
    MatrixBuffer<double> mean(errors.rows(), errors.cols());
    for (int64_t k = 0; k < errors.rows(); ++k) {
      const double sum = std::accumulate(errors.row(k), errors.row(k) + errors.cols(), 0.0);
      std::fill_n(mean.row(k), errors.cols(), sum / static_cast<double>(errors.cols()));
    }
    return mean;
  }

  static void multiply(MatrixBuffer<float>& matrix, float factor) {
    for (int64_t i = 0; i < matrix.size(); ++i) matrix.data()[i] *= factor;
  }

  Options options_;
  std::map<std::string, Layer, std::less<>> layers_;
};

const Register<PrecisionPolicy, GradedPolicy> plugin{
    "grinqh", "levels per token and channel from |x| and a bit budget"};

}  // namespace
}  // namespace grinqh
