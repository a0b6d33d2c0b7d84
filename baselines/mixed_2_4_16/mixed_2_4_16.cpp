// Mixed precision within a matrix (Li et al., 2311.16442): groups of 16 inputs, the most sensitive of them in
// 4 bits and the others in 2, second-order scales, and a few single weights of the 2-bit groups in float16.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <queue>

#include "core/cholesky.h"
#include "core/dtype.h"
#include "core/error.h"
#include "kernels/aligned_2_4_16/layout.h"
#include "quant/affine_grid.h"
#include "quant/column_feedback.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

constexpr const char* kSecondMoment = "second_moment";
constexpr int64_t kGroup = Aligned2416Shape::kGroup;
constexpr int64_t kBlockRows = Aligned2416Shape::kBlockRows;
constexpr int kTopCode = 3;  // of 2 bits

size_t index(int64_t i) { return static_cast<size_t>(i); }

// The range of a set of weights, with zero in it.
struct Span {
  float low = 0, high = 0;
  void add(float value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  double width() const { return static_cast<double>(high) - static_cast<double>(low); }
};

// A layer as it is quantized: an input that is always zero has no weights and a second moment of one.
struct Layer {
  MatrixBuffer<float> weight, moments;

  explicit Layer(const LinearTask& task)
      : weight(task.weight.rows, task.weight.cols), moments(weight.cols(), weight.cols()) {
    const std::span<const float> h = task.stats.at(kSecondMoment);
    std::ranges::copy(h, moments.data());
    for (int64_t i = 0; i < weight.cols(); ++i) {
      const bool dead = moments.row(i)[i] == 0;
      if (dead) moments.row(i)[i] = 1;
      for (int64_t row = 0; row < weight.rows(); ++row)
        weight.row(row)[i] = dead ? 0.0f : task.weight(row, i);
    }
  }
  double moment(int64_t i) const { return static_cast<double>(moments.row(i)[i]); }
};

// Sum over inputs j of a group of H_jj ||W_j||^2, and the mean over rows of the group's range.
struct GroupScore {
  double hessian = 0, range = 0;
};

std::vector<GroupScore> score_groups(const Layer& layer, const Aligned2416Shape& shape) {
  std::vector<GroupScore> scores(index(shape.groups()));
  for (int64_t row = 0; row < shape.out; ++row)
    for (int64_t g = 0; g < shape.groups(); ++g) {
      Span span;
      double energy = 0;
      for (int64_t i = g * kGroup; i < g * kGroup + shape.width_of(g); ++i) {
        const float value = layer.weight.row(row)[i];
        span.add(value);
        energy += static_cast<double>(value) * static_cast<double>(value) * layer.moment(i);
      }
      scores[index(g)].hessian += energy;
      scores[index(g)].range += span.width() / static_cast<double>(shape.out);
    }
  return scores;
}

// Chooses single weights of narrow groups, one after another: the one whose absence from its group's range
// lowers the group's expected error most. A rounding error goes with the square of the range and with H.
class OutlierChoice {
 public:
  OutlierChoice(const Layer& layer, const Aligned2416Shape& shape, double share)
      : layer_(layer), shape_(shape), chosen_(MatrixBuffer<uint8_t>::zeroed(shape.out, shape.in)) {
    const int64_t count =
        std::llround(share * static_cast<double>(shape.out * (shape.in - shape.wide_inputs())));
    if (count == 0) return;
    std::priority_queue<Candidate> queue;
    for (int64_t row = 0; row < shape.out; ++row)
      for (int64_t g = 0; g < shape.groups(); ++g)
        if (!shape.wide[index(g)]) queue.push(best_of(row, g));
    for (int64_t n = 0; n < count; ++n) {
      const Candidate best = queue.top();
      queue.pop();
      chosen_.row(best.row)[best.column] = 1;
      queue.push(best_of(best.row, best.column / kGroup));
    }
  }

  bool operator()(int64_t row, int64_t column) const { return chosen_.row(row)[column] != 0; }

 private:
  struct Candidate {
    double gain;
    int64_t row, column;
    bool operator<(const Candidate& other) const {  // the first row and column among equals is greatest
      return std::tuple(gain, other.row, other.column) < std::tuple(other.gain, row, column);
    }
  };

  Candidate best_of(int64_t row, int64_t g) const {
    const float* weight = layer_.weight.row(row);
    const int64_t begin = g * kGroup, end = begin + shape_.width_of(g);
    double moments = 0;
    for (int64_t i = begin; i < end; ++i) moments += layer_.moment(i);
    const double whole = std::pow(span_without(row, begin, end, -1).width(), 2);
    Candidate best{-1, row, begin};
    for (int64_t i = begin; i < end; ++i) {
      if (chosen_.row(row)[i] || weight[i] == 0) continue;
      const double gain = (whole - std::pow(span_without(row, begin, end, i).width(), 2)) * moments;
      if (gain > best.gain) best = {gain, row, i};
    }
    return best;
  }

  Span span_without(int64_t row, int64_t begin, int64_t end, int64_t without) const {
    Span span;
    for (int64_t i = begin; i < end; ++i)
      if (i != without && !chosen_.row(row)[i]) span.add(layer_.weight.row(row)[i]);
    return span;
  }

  const Layer& layer_;
  const Aligned2416Shape& shape_;
  MatrixBuffer<uint8_t> chosen_;
};

// The codes of a block's scales on a grid  second scale (code + zero)  of few bits whose top is the largest
// of them: of all zeros the one with the least squared error.
struct SecondOrder {
  uint16_t scale = 0;  // float16
  uint8_t zero = 0;
  uint8_t codes[kBlockRows] = {};

  float value(int64_t r) const { return from_half(scale) * static_cast<float>(codes[r] + zero); }

  static SecondOrder fit(std::span<const float> scales, int bits, const std::string& layer) {
    const int top = (1 << bits) - 1;
    const float largest = std::ranges::max(scales);
    if (!std::isfinite(from_half(to_half(largest))))
      bad_input("{}: a scale of {} does not fit into float16", layer, largest);
    SecondOrder best;
    double least = HUGE_VAL;
    for (int zero = 0; zero <= top; ++zero) {
      SecondOrder trial;
      trial.scale = std::max<uint16_t>(to_half(largest / static_cast<float>(top + zero)), 1);
      trial.zero = static_cast<uint8_t>(zero);
      double error = 0;
      for (size_t r = 0; r < scales.size(); ++r) {
        const float steps = std::nearbyint(scales[r] / from_half(trial.scale)) - static_cast<float>(zero);
        trial.codes[r] = static_cast<uint8_t>(std::clamp(steps, 0.0f, static_cast<float>(top)));
        error += std::pow(static_cast<double>(scales[r] - trial.value(static_cast<int64_t>(r))), 2);
      }
      if (error < least) least = error, best = trial;
    }
    return best;
  }
};

class Mixed2416 final : public Quantizer {
 public:
  struct Options {
    std::string sensitivity = "hessian_range";
    double wide = 0.125, outliers = 0.005;
    bool feedback = true;
    double damping = 0.01;
    int64_t block = 128;
    template <class V>
    void fields(V& v) {
      v("sensitivity", sensitivity, OneOf{{"hessian_range", "range", "hessian"}},
        "what makes a group of 16 inputs one of 4 bits");
      v("wide", wide, Range{0, 1}, "share of the groups that have 4 bits");
      v("outliers", outliers, Range{0, 0.5}, "share of the weights of 2-bit groups that is kept in float16");
      v("feedback", feedback, "rounding errors are made up for by later columns");
      v("damping", damping, Range{0, 1}, "share of the mean diagonal of H that is added to it");
      v("block", block, Range{1, 1 << 14}, "columns whose feedback is applied together");
    }
  };

  explicit Mixed2416(Options options) : options_(std::move(options)) {}

  CollectorNames needs() const override { return {kSecondMoment}; }

  std::unique_ptr<QuantizedLinear> quantize(const LinearTask& task) const override {
    if (task.weight.cols > 1 << 16)
      bad_input("{}: {} inputs, but the column of an outlier is stored in 16 bits", task.id,
                task.weight.cols);
    const Layer layer(task);
    Aligned2416Shape shape{task.weight.rows, task.weight.cols, {}};
    shape.wide = choose_wide(layer, shape);
    const OutlierChoice is_outlier(layer, shape, options_.outliers);
    Aligned2416Parts parts(shape);
    MatrixBuffer<uint16_t> halves(shape.out, shape.in);  // values of outliers

    round_with_feedback(layer.weight, factor_of(layer), {options_.block},
                        [&](const ColumnStep& step, std::span<float> error) {
                          const int64_t g = step.column / kGroup;
                          if (step.column % kGroup == 0)
                            fit_group(step, g, shape, is_outlier, task.id, parts);
                          for (size_t r = 0; r < error.size(); ++r) {
                            const int64_t row = step.first_row + static_cast<int64_t>(r);
                            const float value = step.current(step.column, static_cast<int64_t>(r));
                            uint8_t& code = parts.codes.row(row)[step.column];
                            if (is_outlier(row, step.column)) {
                              code = parts.zeros.row(row)[g];
                              halves.row(row)[step.column] = half_of(value, task.id);
                              error[r] = value - from_half(halves.row(row)[step.column]);
                            } else {
                              error[r] = value - round(value, row, g, shape, parts, code);
                            }
                          }
                        });
    for (int64_t row = 0; row < shape.out; ++row)
      for (int64_t i = 0; i < shape.in; ++i)
        if (is_outlier(row, i)) parts.outliers.push_back({row, i, halves.row(row)[i]});
    return std::make_unique<Aligned2416Linear>(shape, parts);
  }

 private:
  std::vector<uint8_t> choose_wide(const Layer& layer, const Aligned2416Shape& shape) const {
    const std::vector<GroupScore> scores = score_groups(layer, shape);
    const auto sensitivity = [&](int64_t g) {
      const GroupScore& score = scores[index(g)];
      if (options_.sensitivity == "hessian") return score.hessian;
      if (options_.sensitivity == "range") return score.range;
      return score.hessian * score.range;
    };
    std::vector<int64_t> order(index(shape.groups()));
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, [&](int64_t a, int64_t b) { return sensitivity(a) > sensitivity(b); });
    std::vector<uint8_t> wide(order.size());
    const auto count = static_cast<size_t>(std::llround(options_.wide * static_cast<double>(order.size())));
    for (size_t i = 0; i < count; ++i) wide[index(order[i])] = 1;
    return wide;
  }

  InverseFactor factor_of(const Layer& layer) const {
    if (options_.feedback) return inverse_cholesky(layer.moments, options_.damping);
    const int64_t in = layer.moments.cols();  // columns without correlations: nothing is fed back
    InverseFactor identity{MatrixBuffer<float>::zeroed(in, in), 0};
    for (int64_t i = 0; i < in; ++i) identity.upper.row(i)[i] = 1;
    return identity;
  }

  static uint16_t half_of(float value, const std::string& layer) {
    const uint16_t half = to_half(value);
    if (!std::isfinite(from_half(half)))
      bad_input("{}: an outlier of {} does not fit into float16", layer, value);
    return half;
  }

  // The grids of the group that begins at this column, on weights with all feedback up to now.
  static void fit_group(const ColumnStep& step, int64_t g, const Aligned2416Shape& shape,
                        const OutlierChoice& is_outlier, const std::string& layer, Aligned2416Parts& parts) {
    const int64_t begin = g * kGroup, end = begin + shape.width_of(g), rows = step.current.cols;
    check(step.first_row % kBlockRows == 0, "slices are made of whole blocks of rows");
    if (shape.wide[index(g)]) {
      std::vector<float> values(index(end - begin));
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = begin; i < end; ++i) values[index(i - begin)] = step.current(i, r);
        const AffineGrid grid = kWideRule.fit(values, layer);
        parts.wide_scales.row(step.first_row + r)[g] = grid.scale;
        parts.zeros.row(step.first_row + r)[g] = grid.zero;
      }
      return;
    }
    const int bits = Aligned2416Shape::scale_bits(shape.places()[index(g)]);
    for (int64_t first = 0; first < rows; first += kBlockRows) {
      const int64_t last = std::min(first + kBlockRows, rows);
      Span spans[kBlockRows];
      std::vector<float> scales;
      for (int64_t r = first; r < last; ++r) {
        Span& span = spans[r - first];
        for (int64_t i = begin; i < end; ++i)
          if (!is_outlier(step.first_row + r, i)) span.add(step.current(i, r));
        scales.push_back(static_cast<float>(span.width() / kTopCode));
      }
      const SecondOrder second = SecondOrder::fit(scales, bits, layer);
      const int64_t block = (step.first_row + first) / kBlockRows;
      parts.second_scales.row(block)[g] = second.scale;
      parts.second_zeros.row(block)[g] = second.zero;
      for (int64_t r = first; r < last; ++r) {
        const float scale = second.value(r - first);
        const float zero = scale == 0 ? 0.0f : std::nearbyint(-spans[r - first].low / scale);
        parts.scale_codes.row(step.first_row + r)[g] = second.codes[r - first];
        parts.zeros.row(step.first_row + r)[g] =
            static_cast<uint8_t>(std::clamp(zero, 0.0f, static_cast<float>(kTopCode)));
      }
    }
  }

  // Rounds a weight to its group's grid; returns what the code decodes to.
  static float round(float value, int64_t row, int64_t g, const Aligned2416Shape& shape,
                     const Aligned2416Parts& parts, uint8_t& code) {
    const uint8_t zero = parts.zeros.row(row)[g];
    if (shape.wide[index(g)]) {
      const AffineGrid grid{parts.wide_scales.row(row)[g], zero};
      code = kWideRule.round(value, grid);
      return kWideRule.decode(code, grid);
    }
    const int64_t block = row / kBlockRows;
    const float scale = from_half(parts.second_scales.row(block)[g]) *
                        static_cast<float>(parts.scale_codes.row(row)[g] + parts.second_zeros.row(block)[g]);
    const float steps = scale == 0 ? 0.0f : std::nearbyint(value / scale);
    code = static_cast<uint8_t>(
        std::clamp(steps + static_cast<float>(zero), 0.0f, static_cast<float>(kTopCode)));
    return scale * static_cast<float>(code - zero);
  }

  static constexpr AffineGridRule kWideRule{4, false};
  Options options_;
};

const Register<Quantizer, Mixed2416> plugin{
    "mixed_2_4_16", "2- and 4-bit groups of inputs by sensitivity, second-order scales, float16 outliers"};

}  // namespace
}  // namespace grinqh
