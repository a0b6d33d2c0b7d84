// GPTQ (Frantar et al., 2210.17323): columns are rounded one by one, and the error of each is made up for by
// the columns to come, along the inverse Hessian of the layer's squared output error.
#include <algorithm>
#include <numeric>
#include <vector>

#include "core/parallel.h"
#include "kernels/group_affine/layout.h"
#include "quant/affine_grid.h"
#include "quant/column_feedback.h"
#include "quant/live_layer.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

constexpr const char* kSecondMoment = "second_moment";
constexpr const char* kInputDrift = "input_drift";  // E[(x_float - x) x^T], [in, in]

// Inputs in the order of falling second moments.
std::vector<int64_t> by_moment(std::span<const float> second_moment, int64_t in) {
  std::vector<int64_t> order(static_cast<size_t>(in));
  std::iota(order.begin(), order.end(), 0);
  const Matrix<const float> h(second_moment.data(), in, in);
  std::ranges::stable_sort(order, [&](int64_t a, int64_t b) { return h(a, a) > h(b, b); });
  return order;
}

class Gptq final : public Quantizer {
 public:
  struct Options {
    int bits = 4;
    int64_t group = 128;
    bool symmetric = false, act_order = false, static_groups = true, true_sequential = false;
    double damping = 0.01;
    int64_t block = 128;
    ClipSearch clip;
    bool gptaq = false;
    double alpha = 0.25;
    template <class V>
    void fields(V& v) {
      v("bits", bits, Range{2, 8}, "width of a code");
      v("group", group, Range{0, 1 << 20}, "consecutive inputs that share a scale; 0: per output channel");
      v("symmetric", symmetric, "no zero points: the range is centred on zero");
      v("act_order", act_order,
        "columns in the order of falling second moment; groups stay consecutive inputs");
      v("static_groups", static_groups, "with act_order: scales from the original weights (required)");
      v("true_sequential", true_sequential,
        "a layer's statistics see the earlier layers of its block quantized");
      v("damping", damping, Range{0, 1}, "share of the mean diagonal of H that is added to it");
      v("block", block, Range{1, 1 << 14}, "columns whose feedback is applied together");
      clip.fields(v);
      v("gptaq", gptaq, "make up for the inputs' difference from the float model's as well");
      v("alpha", alpha, Range{0, 1}, "with gptaq: the share of the difference that is made up for");
    }
    void validate() const {
      if (act_order && !static_groups && group != 0)
        bad_input(
            "act_order with groups needs static_groups = true: a group's scale is needed before all its "
            "columns");
    }
  };

  explicit Gptq(Options options) : options_(options) {}

  CollectorNames needs() const override {
    return options_.gptaq ? CollectorNames{kSecondMoment, kInputDrift} : CollectorNames{kSecondMoment};
  }

  bool sequential_in_block() const override { return options_.true_sequential; }

  std::unique_ptr<QuantizedLinear> quantize(const LinearTask& task) const override {
    const int64_t out = task.weight.rows, in = task.weight.cols;
    const std::span<const float> second_moment = task.stats.at(kSecondMoment);
    std::vector<int64_t> order;
    if (options_.act_order) order = by_moment(second_moment, in);
    const GroupAffineShape shape{out, in, options_.bits, options_.group, options_.symmetric};
    const AffineGridRule rule{options_.bits, options_.symmetric, options_.clip};

    MatrixBuffer<float> storage;
    const Matrix<const float> weight = live_weight(task.weight, second_moment, order, storage);
    const auto shared = options_.act_order ? std::make_shared<const InverseFactor>(inverse_cholesky(
                                                 live_moments(second_moment, in, order), options_.damping))
                                           : live_factor(task.stats, kSecondMoment, in, options_.damping);
    const InverseFactor& factor = *shared;
    if (factor.damping > options_.damping) task.note("damping", factor.damping);
    MatrixBuffer<float> drift;
    if (options_.gptaq)
      drift = drift_feedback(pick_pairs({task.stats.at(kInputDrift).data(), in, in}, order), factor,
                             options_.alpha);

    MatrixBuffer<uint8_t> codes(out, in);
    MatrixBuffer<AffineGrid> grids(out, shape.groups());
    const bool fixed = options_.act_order || options_.group == 0;
    if (fixed) fit_original(task, shape, rule, grids);
    round_with_feedback(weight, factor, {options_.block, drift},
                        AffineRounding{rule, shape.group_size(), !fixed, order, task.id, codes, grids});
    return make_group_affine(shape, codes, grids);
  }

 private:
  static void fit_original(const LinearTask& task, const GroupAffineShape& shape, const AffineGridRule& rule,
                           MatrixBuffer<AffineGrid>& grids) {
    parallel_for(shape.out, [&](int64_t row) {
      for (int64_t g = 0; g < shape.groups(); ++g)
        grids.row(row)[g] = rule.fit(shape.group_of(task.weight.row_span(row), g), task.id);
    });
  }

  Options options_;
};

const Register<Quantizer, Gptq> plugin{"gptq",
                                       "column by column with error feedback along the inverse Hessian"};

}  // namespace
}  // namespace grinqh
