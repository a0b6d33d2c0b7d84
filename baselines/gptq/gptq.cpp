// GPTQ (Frantar et al., 2210.17323): columns are rounded one by one, and the error of each is made up for by
// the columns to come, along the inverse Hessian of the layer's squared output error.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/dtype.h"
#include "kernels/group_affine/layout.h"
#include "quant/affine_grid.h"
#include "quant/column_feedback.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

constexpr const char* kSecondMoment = "second_moment";
constexpr const char* kInputDrift = "input_drift";  // E[(x_float - x) x^T], [in, in]

// Columns of a layer in the order in which they are rounded.
struct Order {
  std::vector<int64_t> column;  // [place]

  Order(Matrix<const float> h, bool by_diagonal) : column(static_cast<size_t>(h.rows)) {
    std::iota(column.begin(), column.end(), 0);
    if (by_diagonal)
      std::ranges::stable_sort(column, [&](int64_t a, int64_t b) { return h(a, a) > h(b, b); });
  }
};

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
    const Matrix<const float> h(task.stats.at(kSecondMoment).data(), in, in);
    const Order order(h, options_.act_order);
    const GroupAffineShape shape{out, in, options_.bits, options_.group, options_.symmetric};
    const AffineGridRule rule{options_.bits, options_.symmetric, options_.clip};

    // Weights and Hessian in rounding order; an input that is always zero is left out of the feedback.
    MatrixBuffer<float> weight(out, in), moments = in_order(task.stats.at(kSecondMoment), order);
    for (int64_t i = 0; i < in; ++i) {
      const int64_t from = order.column[static_cast<size_t>(i)];
      const bool dead = h(from, from) == 0;
      if (dead) moments.row(i)[i] = 1;
      for (int64_t row = 0; row < out; ++row) weight.row(row)[i] = dead ? 0.0f : task.weight(row, from);
    }
    const InverseFactor factor = inverse_cholesky(moments.view(), options_.damping);
    if (factor.damping > options_.damping) task.note("damping", factor.damping);
    MatrixBuffer<float> drift;
    if (options_.gptaq)
      drift = drift_feedback(in_order(task.stats.at(kInputDrift), order), factor, options_.alpha);

    MatrixBuffer<uint8_t> codes(out, in);
    MatrixBuffer<AffineGrid> grids(out, shape.groups());
    const bool fixed = options_.act_order || options_.group == 0;
    if (fixed) fit_original(task, shape, rule, grids);
    round_with_feedback(weight.view(), factor, {options_.block, drift},
                        [&](const ColumnStep& step, std::span<float> error) {
                          const int64_t column = order.column[static_cast<size_t>(step.column)];
                          const int64_t group = column / shape.group_size();
                          if (!fixed && column % shape.group_size() == 0)
                            fit_current(step, shape, rule, task.id, grids);
                          for (size_t r = 0; r < error.size(); ++r) {
                            const int64_t row = step.first_row + static_cast<int64_t>(r);
                            const AffineGrid& grid = grids.row(row)[group];
                            const float value = step.current(step.column, static_cast<int64_t>(r));
                            const uint8_t code = rule.round(value, grid);
                            codes.row(row)[column] = code;
                            error[r] = value - rule.decode(code, grid);
                          }
                        });
    return make_group_affine(shape, codes, grids);
  }

 private:
  // A matrix of pairs of inputs [in, in], rows and columns in the order of rounding.
  static MatrixBuffer<float> in_order(std::span<const float> pairs, const Order& order) {
    const auto in = static_cast<int64_t>(order.column.size());
    const Matrix<const float> from(pairs.data(), in, in);
    MatrixBuffer<float> to(in, in);
    for (int64_t i = 0; i < in; ++i)
      for (int64_t j = 0; j < in; ++j)
        to.row(i)[j] = from(order.column[static_cast<size_t>(i)], order.column[static_cast<size_t>(j)]);
    return to;
  }

  static void fit_original(const LinearTask& task, const GroupAffineShape& shape, const AffineGridRule& rule,
                           MatrixBuffer<AffineGrid>& grids) {
    for (int64_t row = 0; row < shape.out; ++row)
      for (int64_t g = 0; g < shape.groups(); ++g)
        grids.row(row)[g] = rule.fit(shape.group_of(task.weight.row_span(row), g), task.id);
  }

  // The group that begins at this column, on weights with the feedback of earlier blocks (the authors' code
  // does not see the feedback from within the block here).
  static void fit_current(const ColumnStep& step, const GroupAffineShape& shape, const AffineGridRule& rule,
                          const std::string& layer, MatrixBuffer<AffineGrid>& grids) {
    const int64_t begin = step.column, end = std::min(begin + shape.group_size(), shape.in);
    std::vector<float> group(static_cast<size_t>(end - begin));
    for (int64_t r = 0; r < step.block.cols; ++r) {
      for (int64_t i = begin; i < end; ++i) group[static_cast<size_t>(i - begin)] = step.block(i, r);
      grids.row(step.first_row + r)[begin / shape.group_size()] = rule.fit(group, layer);
    }
  }

  Options options_;
};

const Register<Quantizer, Gptq> plugin{"gptq",
                                       "column by column with error feedback along the inverse Hessian"};

}  // namespace
}  // namespace grinqh
