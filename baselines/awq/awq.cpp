// AWQ (Lin et al., 2306.00978): input channels that carry much are scaled up before rounding, by a power of
// their mean magnitude that is searched on outputs; then round to nearest with each group's range clipped to
// where the layer's output is least wrong. The scales are folded into what makes the inputs (the transform),
// or kept beside the codes.
#include <algorithm>
#include <cmath>

#include "core/dtype.h"
#include "core/gemm.h"
#include "core/parallel.h"
#include "core/vector_math.h"
#include "kernels/group_affine/layout.h"
#include "quant/affine_grid.h"
#include "quant/clip_search.h"
#include "quant/model_transform.h"
#include "quant/quantizer.h"
#include "quant/scaled_rounding.h"

namespace grinqh {
namespace {

constexpr const char* kMeanMagnitude = "mean_magnitude";
constexpr const char* kSampledInputs = "sampled_inputs";

// magnitude^ratio, centred so that the largest and the smallest multiply to 1.
std::vector<float> scales_at(std::span<const float> magnitudes, float ratio) {
  std::vector<float> scales;
  for (const float magnitude : magnitudes) scales.push_back(std::max(std::pow(magnitude, ratio), 1e-4f));
  const auto [low, high] = std::ranges::minmax(scales);
  const float centre = std::sqrt(low * high);
  for (float& scale : scales) scale /= centre;
  return scales;
}

// The scales, of exponents 0, 1 / grid, ... below 1, whose error(scales) is least.
template <class Error>
std::vector<float> search_scales(std::span<const float> magnitudes, int grid, const std::string& layer,
                                 const Error& error) {
  std::vector<float> best;
  double least = HUGE_VAL;
  for (int step = 0; step < grid; ++step) {
    std::vector<float> scales = scales_at(magnitudes, static_cast<float>(step) / static_cast<float>(grid));
    const double found = error(scales);
    if (!(found < least)) continue;
    least = found;
    best = std::move(scales);
  }
  if (best.empty()) fail("{}: no exponent gives a finite error of the output", layer);
  return best;
}

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
    const auto in = static_cast<int64_t>(magnitudes.size());
    const int64_t group = options_.group == 0 ? in : options_.group;
    return search_scales(magnitudes, options_.grid, site.layers.front().id,
                         [&](std::span<const float> scales) {
                           return site.probe.rounding_error(site.layers, {scales, options_.bits, group});
                         });
  }

  Options options_;
  TransformPlan plan_;
};

class Awq final : public Quantizer {
 public:
  struct Options {
    int bits = 4;
    int64_t group = 128;
    std::string scales = "fold";
    int scale_grid = 20;
    bool clip = true;
    int clip_grid = 20;
    double max_shrink = 0.5;
    template <class V>
    void fields(V& v) {
      v("bits", bits, Range{2, 8}, "width of a code");
      v("group", group, Range{0, 1 << 20}, "consecutive inputs that share a scale; 0: per output channel");
      v("scales", scales, OneOf{{"fold", "keep", "none"}},
        "of input channels: folded into the layers before (a transform, unless the method names its own), "
        "kept "
        "beside the codes and searched layer by layer, or none");
      v("scale_grid", scale_grid, Range{1, 1000}, "exponents of the scales that are tried");
      v("clip", clip, "search for clipped ranges; never for q and k, whose product meets a softmax");
      v("clip_grid", clip_grid, Range{1, 1000}, "ranges are shrunk in steps of this fraction");
      v("max_shrink", max_shrink, Range{0, 1}, "ranges are shrunk by less than this");
    }
  };
  explicit Awq(Options options) : options_(std::move(options)) {}

  CollectorNames needs() const override {
    if (keeps_scales()) return {kMeanMagnitude, kSampledInputs};
    return options_.clip ? CollectorNames{kSampledInputs} : CollectorNames{};
  }

  std::vector<TransformChoice> transforms() const override {
    if (options_.scales != "fold") return {};
    return {{"awq_scales",
             {{"bits", {options_.bits, "bits"}},
              {"group", {options_.group, "group"}},
              {"grid", {options_.scale_grid, "scale_grid"}}}}};
  }

  std::unique_ptr<QuantizedLinear> quantize(const LinearTask& task) const override {
    GroupAffineShape shape{task.weight.rows, task.weight.cols, options_.bits, options_.group};
    shape.column_scales = keeps_scales();
    std::vector<uint16_t> column_scales;
    if (keeps_scales()) column_scales = search_column_scales(task, shape);
    // What is rounded, and the inputs that it meets: W diag(1 / c), x diag(c).
    MatrixBuffer<float> w(shape.out, shape.in);
    parallel_for(shape.out, [&](int64_t row) {
      for (int64_t i = 0; i < shape.in; ++i)
        w.row(row)[i] =
            task.weight(row, i) / (keeps_scales() ? from_half(column_scales[static_cast<size_t>(i)]) : 1.0f);
    });
    MatrixBuffer<float> shares(shape.out, shape.groups());  // of the group's largest |w| that is kept
    std::fill_n(shares.data(), shares.size(), 1.0f);
    const bool mixes_into_softmax = task.id.ends_with(".q_proj") || task.id.ends_with(".k_proj");
    if (options_.clip && !mixes_into_softmax) {
      MatrixBuffer<float> x = sampled_inputs(task);
      for (int64_t t = 0; t < x.rows() && keeps_scales(); ++t)
        for (int64_t i = 0; i < shape.in; ++i)
          x.row(t)[i] *= from_half(column_scales[static_cast<size_t>(i)]);
      search_clips({task.id, w, x, options_.bits, shape.group_size(),
                    std::max(1, static_cast<int>(options_.max_shrink * options_.clip_grid)),
                    options_.clip_grid, shares});
    }

    const AffineGridRule rule{options_.bits, false};
    MatrixBuffer<uint8_t> codes(shape.out, shape.in);
    MatrixBuffer<AffineGrid> grids(shape.out, shape.groups());
    parallel_for(shape.out, [&](int64_t row) {
      for (int64_t g = 0; g < shape.groups(); ++g) {
        const std::vector<float> group =
            clipped_group(shape.group_of(w.view().row_span(row), g), shares.row(row)[g]);
        grids.row(row)[g] = rule.fit(group, task.id);
        uint8_t* code = codes.row(row) + g * shape.group_size();
        for (const float weight : group) *code++ = rule.round(weight, grids.row(row)[g]);
      }
    });
    return make_group_affine(shape, codes, grids, column_scales);
  }

 private:
  bool keeps_scales() const { return options_.scales == "keep"; }

  static MatrixBuffer<float> sampled_inputs(const LinearTask& task) {
    const std::span<const float> values = task.stats.at(kSampledInputs);
    MatrixBuffer<float> x(static_cast<int64_t>(values.size()) / task.weight.cols, task.weight.cols);
    std::ranges::copy(values, x.data());
    return x;
  }

  // c = 1 / s as float16, s searched on the layer's own output.
  std::vector<uint16_t> search_column_scales(const LinearTask& task, const GroupAffineShape& shape) const {
    const MatrixBuffer<float> x = sampled_inputs(task);
    MatrixBuffer<float> output(shape.out, x.rows());
    const std::vector<float> scales = search_scales(
        task.stats.at(kMeanMagnitude), options_.scale_grid, task.id, [&](std::span<const float> tried) {
          MatrixBuffer<float> error =
              round_scaled(task.weight, task.id, {tried, options_.bits, shape.group_size()});
          for (int64_t row = 0; row < shape.out; ++row)
            for (int64_t i = 0; i < shape.in; ++i) error.row(row)[i] -= task.weight(row, i);
          product_nt(error, x, output);
          return sum_of_squares({output.data(), static_cast<size_t>(output.size())});
        });
    std::vector<uint16_t> column_scales;
    for (const float scale : scales) column_scales.push_back(std::max<uint16_t>(to_half(1.0f / scale), 1));
    return column_scales;
  }

  Options options_;
};

const Register<ModelTransform, AwqScales> transform{
    "awq_scales", "inputs that carry much get larger weights, searched on each module's output"};
const Register<Quantizer, Awq> plugin{"awq", "activation-aware scales, clipped ranges, round to nearest"};

}  // namespace
}  // namespace grinqh
