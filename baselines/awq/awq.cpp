// AWQ (Lin et al., 2306.00978): scaled input channels (scales.cpp), then round to nearest with each group's
// range clipped to where the layer's output is least wrong.
#include <algorithm>
#include <cmath>

#include "core/gemm.h"
#include "core/parallel.h"
#include "core/vector_math.h"
#include "kernels/group_affine/layout.h"
#include "quant/affine_grid.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

constexpr const char* kSampledInputs = "sampled_inputs";
constexpr int64_t kTaskRows = 64;

class Awq final : public Quantizer {
 public:
  struct Options {
    int bits = 4;
    int64_t group = 128;
    bool scale = true, clip = true;
    int scale_grid = 20, clip_grid = 20;
    double max_shrink = 0.5;
    template <class V>
    void fields(V& v) {
      v("bits", bits, Range{2, 8}, "width of a code");
      v("group", group, Range{0, 1 << 20}, "consecutive inputs that share a scale; 0: per output channel");
      v("scale", scale, "scale input channels first, where the method names no transform of its own");
      v("scale_grid", scale_grid, Range{1, 1000}, "exponents of the scales that are tried");
      v("clip", clip, "search for clipped ranges; never for q and k, whose product meets a softmax");
      v("clip_grid", clip_grid, Range{1, 1000}, "ranges are shrunk in steps of this fraction");
      v("max_shrink", max_shrink, Range{0, 1}, "ranges are shrunk by less than this");
    }
  };
  explicit Awq(Options options) : options_(options) {}

  CollectorNames needs() const override {
    return options_.clip ? CollectorNames{kSampledInputs} : CollectorNames{};
  }

  std::vector<TransformChoice> transforms() const override {
    if (!options_.scale) return {};
    return {{"awq_scales",
             {{"bits", {options_.bits, "bits"}},
              {"group", {options_.group, "group"}},
              {"grid", {options_.scale_grid, "scale_grid"}}}}};
  }

  std::unique_ptr<QuantizedLinear> quantize(const LinearTask& task) const override {
    const Matrix<const float> w = task.weight;
    const GroupAffineShape shape{w.rows, w.cols, options_.bits, options_.group, false};
    const AffineGridRule rule{options_.bits, false};
    MatrixBuffer<float> shares(w.rows, shape.groups());  // of the group's largest |w| that is kept
    std::fill_n(shares.data(), shares.size(), 1.0f);
    const bool mixes_into_softmax = task.id.ends_with(".q_proj") || task.id.ends_with(".k_proj");
    if (options_.clip && !mixes_into_softmax) search_shares(task, shape, shares);

    const AffineGridRule rule{options_.bits, false};
    MatrixBuffer<uint8_t> codes(w.rows, w.cols);
    MatrixBuffer<AffineGrid> grids(w.rows, shape.groups());
    parallel_for(w.rows, [&](int64_t row) {
      for (int64_t g = 0; g < shape.groups(); ++g) {
        const std::vector<float> group = clamped(shape.group_of(w.row_span(row), g), shares.row(row)[g]);
        grids.row(row)[g] = rule.fit(group, task.id);
        uint8_t* code = codes.row(row) + g * shape.group_size();
        for (const float weight : group) *code++ = rule.round(weight, grids.row(row)[g]);
      }
    });
    return make_group_affine(shape, codes, grids);
  }

 private:
  // For every group of every row the share of its largest |w| to which weights are clamped before rounding
  // that leaves the least sum over sampled tokens of (x (w - w'))^2, x and w those of the group.
  void search_shares(const LinearTask& task, const GroupAffineShape& shape, Matrix<float> shares) const {
    const AffineGridRule rule{options_.bits, false};
    const std::span<const float> sampled = task.stats.at(kSampledInputs);
    const Matrix<const float> x(sampled.data(), static_cast<int64_t>(sampled.size()) / shape.in, shape.in);
    const int steps = std::max(1, static_cast<int>(options_.max_shrink * options_.clip_grid));
    const int64_t row_tasks = (shape.out + kTaskRows - 1) / kTaskRows;
    parallel_for(row_tasks * shape.groups(), [&](int64_t index) {
      const int64_t g = index % shape.groups(), begin = g * shape.group_size();
      const int64_t end = std::min(begin + shape.group_size(), shape.in);
      const int64_t first = index / shape.groups() * kTaskRows;
      const int64_t rows = std::min(kTaskRows, shape.out - first);
      MatrixBuffer<float> error(rows, end - begin), output(rows, x.rows);
      std::vector<double> least(static_cast<size_t>(rows), HUGE_VAL);
      for (int step = 0; step < steps; ++step) {
        const float share = 1.0f - static_cast<float>(step) / static_cast<float>(options_.clip_grid);
        for (int64_t r = 0; r < rows; ++r) {
          const std::span<const float> group = shape.group_of(task.weight.row_span(first + r), g);
          const std::vector<float> kept = clamped(group, share);
          const AffineGrid grid = rule.fit(kept, task.id);
          for (size_t i = 0; i < group.size(); ++i)
            error.row(r)[i] = group[i] - rule.decode(rule.round(kept[i], grid), grid);
        }
        matmul_nt_serial(error, x.cols_between(begin, end), output);
        for (int64_t r = 0; r < rows; ++r) {
          const double sum = sum_of_squares(output.view().row_span(r));
          if (sum >= least[static_cast<size_t>(r)]) continue;
          least[static_cast<size_t>(r)] = sum;
          shares(first + r, g) = share;
        }
      }
    });
  }

  static std::vector<float> clamped(std::span<const float> group, float share) {
    float largest = 0;
    for (const float weight : group) largest = std::max(largest, std::abs(weight));
    std::vector<float> values(group.begin(), group.end());
    for (float& value : values) value = std::clamp(value, -share * largest, share * largest);
    return values;
  }

  Options options_;
};

const Register<Quantizer, Awq> plugin{"awq", "activation-aware scales, clipped ranges, round to nearest"};

}  // namespace
}  // namespace grinqh
