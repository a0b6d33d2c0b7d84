// Bits per layer: each linear layer gets one of a few widths, such that a sum over layers of what rounding
// them loses is least within a budget of mean bits (as LLM-MQ and others; exact, by dynamic programming).
#include <algorithm>
#include <cmath>

#include "core/cholesky.h"
#include "core/error.h"
#include "core/gemm.h"
#include "core/parallel.h"
#include "core/text.h"
#include "kernels/group_affine/layout.h"
#include "quant/affine_grid.h"
#include "quant/column_feedback.h"
#include "quant/knapsack.h"
#include "quant/live_layer.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

constexpr const char* kSecondMoment = "second_moment";
constexpr const char* kFisher = "fisher_diagonal";

struct Codes {
  GroupAffineShape shape;
  MatrixBuffer<uint8_t> codes;
  MatrixBuffer<AffineGrid> grids;

  explicit Codes(const GroupAffineShape& shape)
      : shape(shape), codes(shape.out, shape.in), grids(shape.out, shape.groups()) {}

  float decoded(int64_t row, int64_t i) const {
    const AffineGridRule rule{shape.bits, shape.symmetric};
    return rule.decode(codes.row(row)[i], grids.row(row)[i / shape.group_size()]);
  }
};

Codes round_to_nearest(const LinearTask& task, const GroupAffineShape& shape) {
  Codes result(shape);
  const AffineGridRule rule{shape.bits, shape.symmetric};
  parallel_for(shape.out, [&](int64_t row) {
    for (int64_t g = 0; g < shape.groups(); ++g) {
      const std::span<const float> group = shape.group_of(task.weight.row_span(row), g);
      result.grids.row(row)[g] = rule.fit(group, task.id);
      rule.round(group, result.grids.row(row)[g], result.codes.row(row) + g * shape.group_size());
    }
  });
  return result;
}

class MixedLayers final : public Quantizer {
 public:
  struct Options {
    double bits = 3.0;
    std::vector<int> widths = {2, 3, 4, 8};
    int64_t group = 128;
    std::string sensitivity = "fisher";
    bool feedback = true;
    double damping = 0.01;
    int64_t block = 128;
    template <class V>
    void fields(V& v) {
      v("bits", bits, Range{2, 8}, "mean width of a code over all weights, at most");
      v("widths", widths, Range{2, 8}, "widths that a layer may have, ascending");
      v("group", group, Range{0, 1 << 20}, "consecutive inputs that share a scale; 0: per output channel");
      v("sensitivity", sensitivity, OneOf{{"fisher", "relative", "second_moment"}},
        "what a layer's rounding to nearest loses: squared error of its outputs, the same as a share of "
        "their energy, or growth of the loss");
      v("feedback", feedback, "rounding errors are made up for by later columns");
      v("damping", damping, Range{0, 1}, "share of the mean diagonal of H that is added to it");
      v("block", block, Range{1, 1 << 14}, "columns whose feedback is applied together");
    }
    void validate() const {
      if (widths.empty() || !std::ranges::is_sorted(widths, std::less_equal<>()))
        bad_input("widths must ascend, and there must be one at least");
      if (bits < widths.front() || bits > widths.back())
        bad_input("bits = {} is outside of what widths allow, {} to {}", bits, widths.front(), widths.back());
    }
  };

  explicit MixedLayers(Options options) : options_(std::move(options)) {}

  CollectorNames needs() const override {
    return options_.feedback ? CollectorNames{kSecondMoment} : CollectorNames{};
  }
  bool surveys() const override { return true; }
  CollectorNames survey_needs() const override {
    return {options_.sensitivity == "fisher" ? kFisher : kSecondMoment};
  }

  void survey(const LinearTask& task) override {
    std::vector<Choice> choices;
    for (const int bits : options_.widths) {
      const double loss = loss_of(task, bits);
      if (!std::isfinite(loss))
        bad_input("{}: the loss of rounding it to {} bits is {}", task.id, bits, loss);
      choices.push_back({bits * task.weight.rows * task.weight.cols, loss});
    }
    ids_.push_back(task.id);
    weights_ += task.weight.rows * task.weight.cols;
    choices_.push_back(std::move(choices));
  }

  void allot() override {
    const auto budget =
        static_cast<int64_t>(std::floor(options_.bits * static_cast<double>(weights_) + 1e-6));
    const std::vector<size_t> chosen = choose_within_budget(choices_, budget);
    for (size_t n = 0; n < ids_.size(); ++n) bits_[ids_[n]] = options_.widths[chosen[n]];
  }

  std::unique_ptr<QuantizedLinear> quantize(const LinearTask& task) const override {
    const auto found = bits_.find(task.id);
    check(found != bits_.end(), "a layer is quantized after it was surveyed");
    task.note("bits", found->second);
    const Codes result = options_.feedback ? round_fed_back(task, shape_of(task, found->second))
                                           : round_to_nearest(task, shape_of(task, found->second));
    return make_group_affine(result.shape, result.codes, result.grids);
  }

 private:
  GroupAffineShape shape_of(const LinearTask& task, int bits) const {
    return {task.weight.rows, task.weight.cols, bits, options_.group, false};
  }

  double loss_of(const LinearTask& task, int bits) const {
    const MatrixBuffer<float> error = rounding_error(task, bits);
    if (options_.sensitivity == "fisher") return fisher_loss(task, error);
    const double lost = output_energy(task, error);
    if (options_.sensitivity == "second_moment") return lost;
    const double whole = output_energy(task, task.weight);
    return whole == 0 ? 0 : lost / whole;
  }

  // tr(M H M^T): the expected squared outputs of a matrix on the layer's inputs.
  static double output_energy(const LinearTask& task, Matrix<const float> m) {
    const Matrix<const float> h(task.stats.at(kSecondMoment).data(), m.cols, m.cols);
    MatrixBuffer<float> product(m.rows, m.cols);
    product_nn(m, h, product);
    double sum = 0;
    for (int64_t row = 0; row < m.rows; ++row)
      for (int64_t i = 0; i < m.cols; ++i)
        sum += static_cast<double>(m(row, i)) * static_cast<double>(product.row(row)[i]);
    return sum;
  }

  // sum F dW^2: twice the expected growth of the loss, if F is the Hessian's diagonal.
  static double fisher_loss(const LinearTask& task, const MatrixBuffer<float>& error) {
    const std::span<const float> fisher = task.stats.at(kFisher);
    double sum = 0;
    for (int64_t i = 0; i < error.size(); ++i)
      sum += static_cast<double>(fisher[static_cast<size_t>(i)]) *
             std::pow(static_cast<double>(error.data()[i]), 2);
    return sum;
  }

  MatrixBuffer<float> rounding_error(const LinearTask& task, int bits) const {
    const Codes rounded = round_to_nearest(task, shape_of(task, bits));
    MatrixBuffer<float> error(task.weight.rows, task.weight.cols);
    parallel_for(error.rows(), [&](int64_t row) {
      for (int64_t i = 0; i < error.cols(); ++i)
        error.row(row)[i] = task.weight(row, i) - rounded.decoded(row, i);
    });
    return error;
  }

  // Frantar et al., 2210.17323.
  Codes round_fed_back(const LinearTask& task, const GroupAffineShape& shape) const {
    const LiveLayer layer = live_layer(task.weight, task.stats.at(kSecondMoment));
    Codes result(shape);
    round_with_feedback(layer.weight, inverse_cholesky(layer.moments, options_.damping), {options_.block},
                        AffineRounding{.rule = {shape.bits, shape.symmetric},
                                       .group = shape.group_size(),
                                       .layer = task.id,
                                       .codes = result.codes,
                                       .grids = result.grids});
    return result;
  }

  Options options_;
  // What the survey found, in the order of the model: the cost and the loss of every width.
  std::vector<std::string> ids_;
  std::vector<std::vector<Choice>> choices_;
  int64_t weights_ = 0;
  std::map<std::string, int, std::less<>> bits_;  // by id, once allotted
};

const Register<Quantizer, MixedLayers> plugin{
    "mixed_layers", "a width for each layer, by what rounding it loses, in a budget"};

}  // namespace
}  // namespace grinqh
