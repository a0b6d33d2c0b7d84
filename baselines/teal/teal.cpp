// TEAL (Liu et al., 2408.14690): a decoded token skips the input channels whose activation is small. What is
// small is one threshold a layer, the quantile of |x| over the calibration tokens and all the layer's
// channels; a channel that is not skipped is read in full.
#include <algorithm>
#include <cmath>
#include <map>

#include "core/text.h"
#include "quant/log_histogram.h"
#include "quant/optional_weights.h"
#include "quant/precision_policy.h"

namespace grinqh {
namespace {

constexpr const char* kHistogram = "magnitude_histogram";
constexpr double kMostSparsity = 0.95;

// The distribution of |x| over all channels of a layer. histogram: [in, LogHistogram::kBins].
MagnitudeDistribution pooled(std::span<const float> histogram) {
  double sums[LogHistogram::kBins] = {};
  for (size_t i = 0; i < histogram.size(); ++i)
    sums[i % LogHistogram::kBins] += static_cast<double>(histogram[i]);
  const std::vector<float> counts(std::begin(sums), std::end(sums));
  return MagnitudeDistribution(counts);
}

// The least threshold with at least this share of magnitudes at or below it.
float quantile(const MagnitudeDistribution& magnitudes, double share) {
  double low = 0, high = LogHistogram::lower_edge(LogHistogram::kBins);
  if (1 - magnitudes.share_above(low) >= share) return 0.0f;
  constexpr int kSteps = 64;  // from 2^12 to below the spacing of small floats
  for (int step = 0; step < kSteps; ++step) {
    const double middle = 0.5 * (low + high);
    (1 - magnitudes.share_above(middle) >= share ? high : low) = middle;
  }
  return static_cast<float>(high);
}

class Teal final : public PrecisionPolicy, public OptionalWeights {
 public:
  struct Options {
    double sparsity = 0.5;
    std::string allocation = "uniform";
    double step = 0.01;
    template <class V>
    void fields(V& v) {
      v("sparsity", sparsity, Range{0, kMostSparsity}, "share of a block's weights that a token skips");
      v("allocation", allocation, OneOf{{"uniform", "greedy"}},
        "sparsity of a layer: the same for all, or raised where it hurts the block's output least");
      v("step", step, Range{0.001, 0.5},
        "greedy: by how much one raise lifts the block's sparsity, whichever layer it is given to");
    }
  };

  explicit Teal(Options options) : options_(std::move(options)) {}

  CollectorNames needs() const override { return {kHistogram}; }

  bool looks_at_weights(const std::string&, const LayerStats&) const override { return false; }
  void prepare(const LinearTask& task, const QuantizedLinear& quantized) override {
    if (std::ranges::find(quantized.levels(), Level{0}) == quantized.levels().end()) {
      std::vector<std::string> stored;
      for (const Level level : quantized.levels()) stored.push_back(std::to_string(level));
      bad_input("policy 'teal': {}: level 0, a skipped channel, is not stored by this {} layer; it has {}",
                task.id, quantized.layout(), join(stored, ", "));
    }
    layers_.insert_or_assign(task.id, Layer{quantized.full_level(), static_cast<double>(quantized.weights()),
                                            pooled(task.stats.at(kHistogram))});
  }

  void allot() override {
    for (auto& [id, layer] : layers_) layer.set_sparsity(options_.sparsity);
  }

  bool tunes() const override { return options_.allocation == "greedy"; }

  // Algorithm 1: all layers start dense; each round raises the sparsity of one, by a step inversely
  // proportional to its size, so that every raise saves the block the same number of weights.
  void tune(BlockTrial& trial) override {
    std::vector<Candidate> candidates;
    double weights = 0, mean = 0;
    for (const std::string& id : trial.layers()) {
      Layer& layer = layers_.at(id);
      layer.set_sparsity(0);
      weights += layer.weights;
      candidates.push_back({&layer, 0, layer.weights});
    }
    for (Candidate& each : candidates) each.share /= weights;

    constexpr double kRest = 1e-9;  // of rounding
    double error = trial.error();
    while (options_.sparsity - mean > kRest) {
      const Raise raise =
          best_raise(candidates, std::min(options_.step, options_.sparsity - mean), error, trial);
      raise.candidate->raise_to(raise.sparsity);
      error = raise.error;
      mean = 0;
      for (const Candidate& each : candidates) mean += each.share * each.sparsity;
    }
  }

  const ChannelGrading* grading(const std::string& id) const override { return &layers_.at(id).grading; }

 private:
  struct Layer {
    Layer(Level full, double weights, MagnitudeDistribution magnitudes)
        : weights(weights), magnitudes(std::move(magnitudes)) {
      grading.levels = {0, full};
      grading.thresholds = MatrixBuffer<float>(1, 1);
    }
    double weights;
    MagnitudeDistribution magnitudes;
    ChannelGrading grading;  // skipped up to the threshold, read in full above

    void set_sparsity(double sparsity) { *grading.thresholds.data() = quantile(magnitudes, sparsity); }
  };

  struct Candidate {
    Layer* layer;
    double sparsity, share;  // share: of the block's weights

    void raise_to(double value) {
      sparsity = value;
      layer->set_sparsity(value);
    }
  };

  struct Raise {
    Candidate* candidate = nullptr;
    double sparsity = 0, error = 0;
  };

  // The raise of one layer that costs least. Raises are all worth `step` of the block's sparsity, and the one
  // with the least error is taken, except that a layer near the greatest sparsity is raised by what is left:
  // so what is compared is the rise of the error over what is saved.
  static Raise best_raise(std::vector<Candidate>& candidates, double step, double error, BlockTrial& trial) {
    Raise best;
    double least = HUGE_VAL;
    for (Candidate& each : candidates) {
      const double before = each.sparsity, raised = std::min(before + step / each.share, kMostSparsity);
      if (raised <= before) continue;
      each.raise_to(raised);
      const double found = trial.error();
      const double rate = (found - error) / (each.share * (raised - before));
      if (rate < least) least = rate, best = {&each, raised, found};
      each.raise_to(before);
    }
    if (!best.candidate) fail("policy 'teal': no layer of {} can be raised", trial.layers().front());
    return best;
  }

  Options options_;
  std::map<std::string, Layer, std::less<>> layers_;
};

const Register<PrecisionPolicy, Teal> plugin{"teal", "channels of small activations are skipped"};

}  // namespace
}  // namespace grinqh
