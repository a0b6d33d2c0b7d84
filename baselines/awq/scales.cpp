// The scale search of AWQ (Lin et al., 2306.00978) as a transform: input channels that carry much are scaled
// up before rounding, by a power of their mean magnitude that is searched for the module's output, and what
// makes these inputs is scaled down.
#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "quant/affine_grid.h"
#include "quant/model_transform.h"

namespace grinqh {
namespace {

constexpr const char* kMeanMagnitude = "mean_magnitude";

class AwqScales final : public ModelTransform {
 public:
  struct Options {
    int bits = 4;
    int64_t group = 128;
    int grid = 20;
    std::string shared_values = "skip";
    template <class V>
    void fields(V& v) {
      v("bits", bits, Range{2, 8}, "width that the search rounds to");
      v("group", group, Range{0, 1 << 20},
        "consecutive inputs that share a scale there; 0: per output channel");
      v("grid", grid, Range{1, 1000}, "exponents tried: 0, 1 / grid, ... below 1");
      v("shared_values", shared_values, OneOf{{"skip", "pool"}},
        "o_proj where query heads share a value head: skip it, or pool the magnitudes of channels that "
        "share");
    }
  };
  explicit AwqScales(Options options) : options_(std::move(options)) {}

  CollectorNames needs() const override { return {kMeanMagnitude}; }

  void see(std::span<const TransformSite> block) override {
    for (const TransformSite& site : block) {
      std::vector<float> magnitudes = channel_magnitudes(site);
      if (!magnitudes.empty()) plan_.input_scales.emplace(site.layers.front().id, search(site, magnitudes));
    }
  }

  TransformPlan plan(int64_t, uint64_t) override { return std::move(plan_); }

 private:
  // Mean |x| of every input, the same for inputs of one source; empty for a site that is passed over.
  std::vector<float> channel_magnitudes(const TransformSite& site) const {
    const std::span<const float> found = site.stats.at(kMeanMagnitude);
    const auto sources = static_cast<size_t>(*std::ranges::max_element(site.sources) + 1);
    if (sources < found.size() && options_.shared_values == "skip") return {};
    std::vector<double> sum(sources), count(sources);
    for (size_t i = 0; i < found.size(); ++i) {
      const auto source = static_cast<size_t>(site.sources[i]);
      sum[source] += found[i];
      count[source] += 1;
    }
    std::vector<float> magnitudes;
    for (const int64_t source : site.sources) {
      const auto s = static_cast<size_t>(source);
      magnitudes.push_back(static_cast<float>(sum[s] / count[s]));
    }
    return magnitudes;
  }

  std::vector<float> search(const TransformSite& site, std::span<const float> magnitudes) const {
    std::vector<float> best;
    double least = HUGE_VAL;
    for (int step = 0; step < options_.grid; ++step) {
      const std::vector<float> scales =
          scales_at(magnitudes, static_cast<float>(step) / static_cast<float>(options_.grid));
      std::vector<MatrixBuffer<float>> rounded;
      std::vector<Matrix<const float>> weights;
      for (const TransformSite::Layer& layer : site.layers) {
        rounded.push_back(round_scaled(layer, scales));
        weights.push_back(rounded.back().view());
      }
      const double error = site.probe.error(weights);
      if (error < least) {
        least = error;
        best = scales;
      }
    }
    if (best.empty())
      fail("{}: no exponent gives a finite error of the module's output", site.layers.front().id);
    return best;
  }

  // magnitude^ratio, centred so that the largest and the smallest multiply to 1.
  static std::vector<float> scales_at(std::span<const float> magnitudes, float ratio) {
    std::vector<float> scales;
    for (const float magnitude : magnitudes) scales.push_back(std::max(std::pow(magnitude, ratio), 1e-4f));
    const auto [low, high] = std::ranges::minmax(scales);
    const float centre = std::sqrt(low * high);
    for (float& scale : scales) scale /= centre;
    return scales;
  }

  // What W diag(s) rounds to, seen from the inputs as they are: Q(W diag(s)) diag(1 / s).
  MatrixBuffer<float> round_scaled(const TransformSite::Layer& layer, std::span<const float> scales) const {
    const AffineGridRule rule{options_.bits, false};
    MatrixBuffer<float> result(layer.weight.rows, layer.weight.cols);
    const auto in = static_cast<size_t>(result.cols());
    const size_t group = options_.group == 0 ? in : std::min(static_cast<size_t>(options_.group), in);
    parallel_for(result.rows(), [&](int64_t r) {
      const std::span<float> row(result.row(r), in);
      for (size_t i = 0; i < in; ++i) row[i] = layer.weight.row(r)[i] * scales[i];
      for (size_t begin = 0; begin < in; begin += group) {
        const std::span<float> part = row.subspan(begin, std::min(group, in - begin));
        const AffineGrid grid = rule.fit(part, layer.id);
        for (float& value : part) value = rule.decode(rule.round(value, grid), grid);
      }
      for (size_t i = 0; i < in; ++i) row[i] /= scales[i];
    });
    return result;
  }

  Options options_;
  TransformPlan plan_;
};

const Register<ModelTransform, AwqScales> plugin{
    "awq_scales", "inputs that carry much get larger weights, searched on each module's output"};

}  // namespace
}  // namespace grinqh
