// SliM-LLM (Huang et al., 2405.14917): groups of inputs of b - 1, b and b + 1 bits, as many of the first as
// of the last, by salience; scales that are searched for with care for salient weights; error feedback.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/cholesky.h"
#include "core/dtype.h"
#include "core/error.h"
#include "core/gemm.h"
#include "core/parallel.h"
#include "kernels/group_mixed/layout.h"
#include "quant/affine_grid.h"
#include "quant/column_feedback.h"
#include "quant/live_layer.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

constexpr const char* kSecondMoment = "second_moment";

size_t index(int64_t i) { return static_cast<size_t>(i); }

// How one group of a row is rounded.
struct GroupGrid {
  int bits;
  AffineGrid affine;    // of more than one bit
  uint16_t mean, step;  // of one bit: mean +- step, float16

  static GroupGrid fit(std::span<const float> values, int bits, const std::string& layer) {
    if (bits > 1) return {bits, AffineGridRule{bits, false}.fit(values, layer), 0, 0};
    double mean = 0, step = 0;
    for (const float value : values) mean += static_cast<double>(value) / static_cast<double>(values.size());
    for (const float value : values)
      step += std::abs(static_cast<double>(value) - mean) / static_cast<double>(values.size());
    const GroupGrid grid{1, {}, to_half(static_cast<float>(mean)), to_half(static_cast<float>(step))};
    if (!std::isfinite(from_half(grid.mean)) || !std::isfinite(from_half(grid.step)))
      bad_input("{}: a mean of {} or a step of {} does not fit into float16", layer, mean, step);
    return grid;
  }
  uint8_t round(float value) const {
    return bits > 1 ? AffineGridRule{bits, false}.round(value, affine) : value >= from_half(mean);
  }
  float decode(uint8_t code) const {
    if (bits > 1) return AffineGridRule{bits, false}.decode(code, affine);
    return from_half(mean) + from_half(step) * static_cast<float>(2 * code - 1);
  }
};

// The squared output error tr(dW H dW^T) of rounding to nearest, kept up while groups change their widths.
class RoundingLoss {
 public:
  RoundingLoss(const LiveLayer& layer, const GroupMixedShape& shape, const std::string& id)
      : layer_(layer), shape_(shape), id_(id), error_(shape.out, shape.in), product_(shape.out, shape.in) {
    for (int64_t g = 0; g < shape.groups(); ++g) {
      const MatrixBuffer<float> part = error_of(g, shape.widths[index(g)]);
      for (int64_t row = 0; row < shape.out; ++row)
        std::copy_n(part.row(row), part.cols(), error_.row(row) + shape.begin_of(g));
    }
    product_nn(error_, layer.moments, product_);
    loss_ = inner(error_, product_);
  }

  double value() const { return loss_; }

  // With d the change of dW, all in group g: the loss grows by 2 tr(d H dW^T) + tr(d H d^T).
  void change(int64_t g, int bits) {
    const int64_t begin = shape_.begin_of(g), end = shape_.end_of(g);
    const MatrixBuffer<float> change = error_of(g, bits);
    for (int64_t row = 0; row < shape_.out; ++row)
      for (int64_t i = begin; i < end; ++i) {
        float& now = error_.row(row)[i];
        const float next = change.row(row)[i - begin];
        change.row(row)[i - begin] = next - now;
        now = next;
      }
    const Matrix<float> here = product_.view().cols_between(begin, end);
    loss_ += inner(change, here);
    product_nn(change, layer_.moments.view().rows_between(begin, end), product_, Output::add);
    loss_ += inner(change, here);
  }

 private:
  // W - round(W) of one group, [out, inputs of the group].
  MatrixBuffer<float> error_of(int64_t g, int bits) const {
    const int64_t begin = shape_.begin_of(g), count = shape_.end_of(g) - begin;
    MatrixBuffer<float> error(shape_.out, count);
    parallel_for(shape_.out, [&](int64_t row) {
      const std::span<const float> values(layer_.weight.row(row) + begin, index(count));
      const GroupGrid grid = GroupGrid::fit(values, bits, id_);
      for (size_t i = 0; i < values.size(); ++i)
        error.row(row)[i] = values[i] - grid.decode(grid.round(values[i]));
    });
    return error;
  }

  static double inner(Matrix<const float> a, Matrix<const float> b) {
    double sum = 0;
    for (int64_t row = 0; row < a.rows; ++row)
      for (int64_t i = 0; i < a.cols; ++i)
        sum += static_cast<double>(a(row, i)) * static_cast<double>(b(row, i));
    return sum;
  }

  const LiveLayer& layer_;
  const GroupMixedShape& shape_;
  const std::string& id_;
  MatrixBuffer<float> error_, product_;  // dW and dW H
  double loss_ = 0;
};

// W_ij^2 / U_jj^2: what optimal brain surgery would lose with a weight. U as in feedback.
class Salience {
 public:
  Salience(const LiveLayer& layer, const InverseFactor& factor, const GroupMixedShape& shape)
      : layer_(layer), factor_(factor), shape_(shape) {
    for (int64_t g = 0; g < shape.groups(); ++g) {
      double sum = 0, squares = 0;
      for (int64_t row = 0; row < shape.out; ++row)
        for (int64_t i = shape.begin_of(g); i < shape.end_of(g); ++i) {
          const double value = of(row, i);
          sum += value;
          squares += value * value;
        }
      const auto count = static_cast<double>(shape.out * (shape.end_of(g) - shape.begin_of(g)));
      mean_.push_back(sum / count);
      deviation_.push_back(std::sqrt(std::max(0.0, squares / count - mean_.back() * mean_.back())));
    }
  }

  double mean(int64_t g) const { return mean_[index(g)]; }
  // Further than `deviations` standard deviations from the mean of its group.
  bool stands_out(int64_t row, int64_t i, double deviations) const {
    const size_t g = index(i / shape_.group_size());
    return std::abs(of(row, i) - mean_[g]) > deviations * deviation_[g];
  }

 private:
  double of(int64_t row, int64_t i) const {
    return std::pow(
        static_cast<double>(layer_.weight.row(row)[i]) / static_cast<double>(factor_.upper.row(i)[i]), 2);
  }
  const LiveLayer& layer_;
  const InverseFactor& factor_;
  const GroupMixedShape& shape_;
  std::vector<double> mean_, deviation_;
};

class SlimLlm final : public Quantizer {
 public:
  struct Options {
    int bits = 3;
    int64_t group = 128;
    bool mixed = true, scale_search = true;
    double salient_weight = 1.0, salient_deviations = 2.0;
    double damping = 0.01;
    int64_t block = 128;
    template <class V>
    void fields(V& v) {
      v("bits", bits, Range{2, 7}, "mean width of a code");
      v("group", group, Range{1, 1 << 20}, "consecutive inputs that share a scale and, in all rows, a width");
      v("mixed", mixed, "some groups have one bit more and as many one bit less");
      v("scale_search", scale_search, "scales of 0.9 to 1.1 of the range's are tried");
      v("salient_weight", salient_weight, Range{0, 1e6},
        "of salient weights' errors in the search for a scale");
      v("salient_deviations", salient_deviations, Range{0, 100},
        "standard deviations from the group's mean from which on a weight's salience stands out");
      v("damping", damping, Range{0, 1}, "share of the mean diagonal of H that is added to it");
      v("block", block, Range{1, 1 << 14}, "columns whose feedback is applied together");
    }
  };

  explicit SlimLlm(Options options) : options_(options) {}

  CollectorNames needs() const override { return {kSecondMoment}; }

  std::unique_ptr<QuantizedLinear> quantize(const LinearTask& task) const override {
    const LiveLayer layer = live_layer(task.weight, task.stats.at(kSecondMoment));
    const InverseFactor factor = inverse_cholesky(layer.moments, options_.damping);
    GroupMixedShape shape{task.weight.rows, task.weight.cols, options_.group, {}};
    shape.widths.assign(index(shape.groups()), static_cast<uint8_t>(options_.bits));
    const Salience salience(layer, factor, shape);
    if (options_.mixed) shape.widths = choose_widths(layer, salience, shape, task.id);
    task.note("wider_groups", static_cast<double>(std::ranges::count(shape.widths, options_.bits + 1)));

    GroupMixedParts parts(shape);
    MatrixBuffer<GroupGrid> grids(shape.out, shape.groups());
    const auto round = [&](const ColumnStep& step, std::span<float> error) {
      const int64_t i = step.column, g = i / shape.group_size();
      if (i == shape.begin_of(g)) fit_group(step, g, shape, salience, task.id, grids);
      for (size_t r = 0; r < error.size(); ++r) {
        const int64_t row = step.first_row + static_cast<int64_t>(r);
        const GroupGrid& grid = grids.row(row)[g];
        const float value = step.current(i, static_cast<int64_t>(r));
        const uint8_t code = grid.round(value);
        parts.codes.row(row)[i] = code;
        error[r] = value - grid.decode(code);
      }
    };
    round_with_feedback(layer.weight, factor, {options_.block}, HostRounding{round, task.notes});
    for (int64_t row = 0; row < shape.out; ++row)
      for (int64_t g = 0; g < shape.groups(); ++g) {
        const GroupGrid& grid = grids.row(row)[g];
        parts.scales.row(row)[g] = grid.bits > 1 ? grid.affine.scale : grid.step;
        parts.zeros.row(row)[g] = grid.affine.zero;
        parts.means.row(row)[g] = grid.mean;
      }
    return std::make_unique<GroupMixedLinear>(shape, parts);
  }

 private:
  // The k most salient groups get a bit more, the k least salient one less; k is the one of least loss.
  std::vector<uint8_t> choose_widths(const LiveLayer& layer, const Salience& salience,
                                     const GroupMixedShape& uniform, const std::string& id) const {
    std::vector<int64_t> order(index(uniform.groups()));
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order,
                             [&](int64_t a, int64_t b) { return salience.mean(a) > salience.mean(b); });
    RoundingLoss loss(layer, uniform, id);
    std::vector<uint8_t> widths = uniform.widths, best = widths;
    double least = loss.value();
    for (size_t k = 0; k < order.size() / 2; ++k) {
      const int64_t raised = order[k], lowered = order[order.size() - 1 - k];
      loss.change(raised, ++widths[index(raised)]);
      loss.change(lowered, --widths[index(lowered)]);
      if (loss.value() < least) least = loss.value(), best = widths;
    }
    return best;
  }

  // The grids of the group that begins at this column, on weights with all feedback up to now.
  void fit_group(const ColumnStep& step, int64_t g, const GroupMixedShape& shape, const Salience& salience,
                 const std::string& layer, MatrixBuffer<GroupGrid>& grids) const {
    const int64_t begin = shape.begin_of(g), end = shape.end_of(g);
    std::vector<float> values(index(end - begin)), importance(values.size());
    for (int64_t r = 0; r < step.current.cols; ++r) {
      const int64_t row = step.first_row + r;
      for (int64_t i = begin; i < end; ++i) {
        values[index(i - begin)] = step.current(i, r);
        const bool salient = salience.stands_out(row, i, options_.salient_deviations);
        importance[index(i - begin)] = salient ? static_cast<float>(options_.salient_weight) : 1.0f;
      }
      GroupGrid grid = GroupGrid::fit(values, shape.widths[index(g)], layer);
      if (options_.scale_search && grid.bits > 1) grid = search_scale(values, importance, grid);
      grids.row(row)[g] = grid;
    }
  }

  // The scale of 0.9 to 1.1 of the grid's with the least sum of |error|^2.4.
  static GroupGrid search_scale(std::span<const float> values, std::span<const float> importance,
                                const GroupGrid& grid) {
    constexpr int kTrials = 101;
    const auto zero = static_cast<float>(grid.affine.zero);
    const auto top = static_cast<float>(AffineGridRule{grid.bits, false}.top_code());
    GroupGrid best = grid;
    float least = HUGE_VALF;
    for (int trial = 0; trial < kTrials; ++trial) {
      const float factor = 0.9f + 0.2f * static_cast<float>(trial) / (kTrials - 1);
      const uint16_t half = std::max<uint16_t>(to_half(factor * from_half(grid.affine.scale)), 1);
      const float scale = from_half(half);
      if (!std::isfinite(scale)) continue;
      float loss = 0;
      for (size_t i = 0; i < values.size() && loss < least; ++i) {
        const float code = std::clamp(std::nearbyint(values[i] / scale) + zero, 0.0f, top);
        loss += importance[i] * std::pow(std::abs(values[i] - scale * (code - zero)), 2.4f);
      }
      if (loss < least) least = loss, best.affine.scale = half;
    }
    return best;
  }

  Options options_;
};

const Register<Quantizer, SlimLlm> plugin{
    "slim_llm", "groups of inputs of b - 1, b and b + 1 bits by salience, error feedback"};

}  // namespace
}  // namespace grinqh
