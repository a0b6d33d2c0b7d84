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
#include "quant/live_layer.h"
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

double moment(const LiveLayer& layer, int64_t i) { return static_cast<double>(layer.moments.row(i)[i]); }

// Sum over inputs j of a group of H_jj ||W_j||^2, and the mean over rows of the group's range.
struct GroupScore {
  double hessian = 0, range = 0;
};

std::vector<GroupScore> score_groups(const LiveLayer& layer, const Aligned2416Shape& shape) {
  std::vector<GroupScore> scores(index(shape.groups()));
  for (int64_t row = 0; row < shape.out; ++row)
    for (int64_t g = 0; g < shape.groups(); ++g) {
      Span span;
      double energy = 0;
      for (int64_t i = g * kGroup; i < g * kGroup + shape.width_of(g); ++i) {
        const float value = layer.weight.row(row)[i];
        span.add(value);
        energy += static_cast<double>(value) * static_cast<double>(value) * moment(layer, i);
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
  OutlierChoice(const LiveLayer& layer, const Aligned2416Shape& shape, double share)
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
    for (int64_t i = begin; i < end; ++i) moments += moment(layer_, i);
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

  const LiveLayer& layer_;
  const Aligned2416Shape& shape_;
  MatrixBuffer<uint8_t> chosen_;
};

// The weights of one row in one narrow group, without outliers, and how much an error of each matters.
struct RowGroup {
  std::vector<float> values, importance;
  Span span;

  void add(float value, float matters) {
    values.push_back(value);
    importance.push_back(matters);
    span.add(value);
  }

  double error(float scale, float zero) const {
    double sum = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      const float code =
          std::clamp(std::nearbyint(values[i] / scale) + zero, 0.0f, static_cast<float>(kTopCode));
      const float off = values[i] - scale * (code - zero);
      sum += static_cast<double>(importance[i] * off * off);
    }
    return sum;
  }

  float scale_of_range() const { return static_cast<float>(span.width() / kTopCode); }
  float zero_of_range(float scale) const {
    return std::clamp(std::nearbyint(-span.low / scale), 0.0f, static_cast<float>(kTopCode));
  }

  // The scale of least error among shares of the range's.
  float best_scale() const {
    constexpr int kTrials = 20;
    float best = scale_of_range();
    if (best == 0) return best;
    double least = HUGE_VAL;
    for (int trial = 0; trial < kTrials; ++trial) {
      const float scale = scale_of_range() * (1.0f - 0.5f * static_cast<float>(trial) / kTrials);
      for (int zero = 0; zero <= kTopCode; ++zero)
        if (const double each = error(scale, static_cast<float>(zero)); each < least)
          least = each, best = scale;
    }
    return best;
  }
};

// The grid of a block's scales,  second scale (code + zero)  in few bits. Its top is the largest of them, its
// zero the one of least squared error.
struct SecondOrder {
  uint16_t scale = 0;  // float16
  int zero = 0;
  int top = 0;

  float value(int code) const { return from_half(scale) * static_cast<float>(code + zero); }
  int nearest(float first_scale) const {
    const float code = std::nearbyint(first_scale / from_half(scale)) - static_cast<float>(zero);
    return static_cast<int>(std::clamp(code, 0.0f, static_cast<float>(top)));
  }

  static SecondOrder fit(std::span<const float> scales, int bits, const std::string& layer) {
    const float largest = std::ranges::max(scales);
    if (!std::isfinite(from_half(to_half(largest))))
      bad_input("{}: a scale of {} does not fit into float16", layer, largest);
    SecondOrder best;
    double least = HUGE_VAL;
    for (int zero = 0; zero < 1 << bits; ++zero) {
      SecondOrder trial{0, zero, (1 << bits) - 1};
      trial.scale = std::max<uint16_t>(to_half(largest / static_cast<float>(trial.top + zero)), 1);
      double error = 0;
      for (const float each : scales)
        error += std::pow(static_cast<double>(each - trial.value(trial.nearest(each))), 2);
      if (error < least) least = error, best = trial;
    }
    return best;
  }
};

// The columns of a layer in the order in which they are rounded: group after group. What is rounded early is
// made up for best, so that coarse groups come first, those of large inputs before others, and wide ones
// last.
std::vector<int64_t> rounding_order(const LiveLayer& layer, const Aligned2416Shape& shape, bool by_width) {
  std::vector<int64_t> groups(index(shape.groups())), columns;
  std::iota(groups.begin(), groups.end(), 0);
  const auto size = [&](int64_t g) {
    double sum = 0;
    for (int64_t i = g * kGroup; i < g * kGroup + shape.width_of(g); ++i) sum += moment(layer, i);
    return sum / static_cast<double>(shape.width_of(g));
  };
  if (by_width)
    std::ranges::stable_sort(groups, [&](int64_t a, int64_t b) {
      return std::pair(shape.wide[index(a)], -size(a)) < std::pair(shape.wide[index(b)], -size(b));
    });
  for (const int64_t g : groups)
    for (int64_t i = g * kGroup; i < g * kGroup + shape.width_of(g); ++i) columns.push_back(i);
  return columns;
}

class Mixed2416 final : public Quantizer {
 public:
  struct Options {
    std::string sensitivity = "hessian_range";
    double wide = 0.125, outliers = 0.005;
    bool scale_search = true, feedback = true, order = true;
    double damping = 0.01;
    int64_t block = 128;
    template <class V>
    void fields(V& v) {
      v("sensitivity", sensitivity, OneOf{{"hessian_range", "range", "hessian"}},
        "what makes a group of 16 inputs one of 4 bits");
      v("wide", wide, Range{0, 1}, "share of the groups that have 4 bits");
      v("outliers", outliers, Range{0, 0.5}, "share of the weights of 2-bit groups that is kept in float16");
      v("scale_search", scale_search, "scales and zeros of 2-bit groups by least error, not by the range");
      v("feedback", feedback, "rounding errors are made up for by later columns");
      v("order", order, "2-bit groups first, by falling second moment; 4-bit groups last");
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
    const LiveLayer layer = live_layer(task.weight, task.stats.at(kSecondMoment));
    Aligned2416Shape shape{task.weight.rows, task.weight.cols, {}};
    shape.wide = choose_wide(layer, shape);
    const OutlierChoice is_outlier(layer, shape, options_.outliers);
    const std::vector<int64_t> order = rounding_order(layer, shape, options_.order);
    const LiveLayer ordered{pick_columns(layer.weight, order), pick_pairs(layer.moments, order)};
    const InverseFactor factor = factor_of(ordered);
    Aligned2416Parts parts(shape);
    MatrixBuffer<uint16_t> halves(shape.out, shape.in);  // values of outliers

    const auto round_column = [&](const ColumnStep& step, std::span<float> error) {
      const int64_t column = order[index(step.column)], g = column / kGroup;
      if (column % kGroup == 0) {
        if (shape.wide[index(g)])
          fit_wide(step, g, shape, task.id, parts);
        else
          fit_narrow(step, g, shape, is_outlier, factor, task.id, parts);
      }
      for (size_t r = 0; r < error.size(); ++r) {
        const int64_t row = step.first_row + static_cast<int64_t>(r);
        const float value = step.current(step.column, static_cast<int64_t>(r));
        uint8_t& code = parts.codes.row(row)[column];
        if (is_outlier(row, column)) {
          code = parts.zeros.row(row)[g];
          halves.row(row)[column] = half_of(value, task.id);
          error[r] = value - from_half(halves.row(row)[column]);
        } else {
          error[r] = value - round(value, row, g, shape, parts, code);
        }
      }
    };
    round_with_feedback(ordered.weight, factor, {options_.block}, HostRounding{round_column, task.notes});
    for (int64_t row = 0; row < shape.out; ++row)
      for (int64_t i = 0; i < shape.in; ++i)
        if (is_outlier(row, i)) parts.outliers.push_back({row, i, halves.row(row)[i]});
    return std::make_unique<Aligned2416Linear>(shape, parts);
  }

 private:
  std::vector<uint8_t> choose_wide(const LiveLayer& layer, const Aligned2416Shape& shape) const {
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

  InverseFactor factor_of(const LiveLayer& layer) const {
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
  static void fit_wide(const ColumnStep& step, int64_t g, const Aligned2416Shape& shape,
                       const std::string& layer, Aligned2416Parts& parts) {
    std::vector<float> values(index(shape.width_of(g)));
    for (int64_t r = 0; r < step.current.cols; ++r) {
      for (size_t i = 0; i < values.size(); ++i)
        values[i] = step.current(step.column + static_cast<int64_t>(i), r);
      const AffineGrid grid = kWideRule.fit(values, layer);
      parts.wide_scales.row(step.first_row + r)[g] = grid.scale;
      parts.zeros.row(step.first_row + r)[g] = grid.zero;
    }
  }

  void fit_narrow(const ColumnStep& step, int64_t g, const Aligned2416Shape& shape,
                  const OutlierChoice& is_outlier, const InverseFactor& factor, const std::string& layer,
                  Aligned2416Parts& parts) const {
    check(step.first_row % kBlockRows == 0, "slices are made of whole blocks of rows");
    const int bits = Aligned2416Shape::scale_bits(shape.places()[index(g)]);
    for (int64_t first = 0; first < step.current.cols; first += kBlockRows) {
      const int64_t rows = std::min(kBlockRows, step.current.cols - first);
      std::vector<RowGroup> groups(index(rows));
      std::vector<float> scales;
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < shape.width_of(g); ++i) {
          const float u = factor.upper.row(step.column + i)[step.column + i];
          if (!is_outlier(step.first_row + first + r, g * kGroup + i))
            groups[index(r)].add(step.current(step.column + i, first + r), 1 / (u * u));
        }
        const RowGroup& group = groups[index(r)];
        scales.push_back(options_.scale_search ? group.best_scale() : group.scale_of_range());
      }
      const SecondOrder second = SecondOrder::fit(scales, bits, layer);
      const int64_t block = (step.first_row + first) / kBlockRows;
      parts.second_scales.row(block)[g] = second.scale;
      parts.second_zeros.row(block)[g] = static_cast<uint8_t>(second.zero);
      for (int64_t r = 0; r < rows; ++r) {
        const FirstOrder found = options_.scale_search ? search(groups[index(r)], second)
                                                       : of_range(groups[index(r)], second, scales[index(r)]);
        parts.scale_codes.row(step.first_row + first + r)[g] = static_cast<uint8_t>(found.code);
        parts.zeros.row(step.first_row + first + r)[g] = static_cast<uint8_t>(found.zero);
      }
    }
  }

  struct FirstOrder {
    int code, zero;
  };

  static FirstOrder of_range(const RowGroup& group, const SecondOrder& second, float scale) {
    const int code = second.nearest(scale);
    return {code, second.value(code) == 0 ? 0 : static_cast<int>(group.zero_of_range(second.value(code)))};
  }

  // Of all scale codes and zeros the ones of least error.
  static FirstOrder search(const RowGroup& group, const SecondOrder& second) {
    FirstOrder best{0, 0};
    double least = HUGE_VAL;
    for (int code = 0; code <= second.top; ++code)
      for (int zero = 0; zero <= kTopCode; ++zero) {
        if (second.value(code) == 0) continue;
        const double error = group.error(second.value(code), static_cast<float>(zero));
        if (error < least) least = error, best = {code, zero};
      }
    return best;
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
