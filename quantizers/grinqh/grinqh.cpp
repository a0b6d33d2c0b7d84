// The nested code of GRINQH (arXiv 2606.23419; the code is reconstructed, see PROVENANCE.md): 8-bit floor
// codes per group, of which every prefix decodes to the middle of its cell. What is read of them is the
// policy's business (policy.cpp).
#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "core/half.h"
#include "core/parallel.h"
#include "kernels/nested/layout.h"
#include "quant/column_feedback.h"
#include "quant/grading_rule.h"
#include "quant/live_layer.h"
#include "quant/quantizer.h"
#include "quant/rounding_rules.h"

namespace grinqh {
namespace {

constexpr const char* kSecondMoment = "second_moment";
constexpr const char* kHistogram = "magnitude_histogram";

// The grid of one group: position p in [0, 256] stands for minimum + scale p.
struct Grid {
  uint16_t scale, minimum;  // float16, as they are stored
  float scale_value() const { return from_half(scale); }
  float minimum_value() const { return from_half(minimum); }
};

class Grinqh final : public Quantizer {
 public:
  struct Options {
    int64_t group = 128;
    std::string axis = "output";
    std::vector<int> levels = {0, 2, 4, 8};
    int table = 4;
    double clip = 1.0;
    double feedback_bits = 3.5;
    double damping = 0.01;
    std::string basis = "pca", table_weights = "energy";
    template <class V>
    void fields(V& v) {
      v("group", group, Range{0, 1 << 20}, "weights that share a scale and a minimum; 0: the whole axis");
      v("axis", axis, OneOf{{"input", "output"}},
        "direction of a group: consecutive inputs of a row, or consecutive outputs of a channel");
      v("levels", levels, Range{0, 8}, "widths that a channel may be read at, ascending");
      v("table", table, Range{0, 6},
        "levels up to this width decode to fitted centroids; 0: to the middle of the cell");
      v("table_weights", table_weights, OneOf{{"energy", "scale"}},
        "what a weight counts in its centroid: the energy of its input that is served at the level (with "
        "feedback only, whose statistics say so), or the square of its scale alone");
      v("clip", clip, Range{0.5, 1}, "the grid covers this share of a group's range");
      v("feedback_bits", feedback_bits, Range{0, 8},
        "columns make up for the error of earlier ones as it is at this mean level; 0: no feedback");
      v("basis", basis, OneOf{{"identity", "random", "pca", "learned"}},
        "of the residual stream, where the method names no transform: as it is, one that spreads its energy, "
        "one that gathers it in few channels, or the one in which sampled tokens cost least");
      v("damping", damping, Range{0, 1}, "share of the second moments' mean diagonal that is added to it");
    }
    void validate() const {
      if (levels.empty() || levels.back() == 0 || !std::ranges::is_sorted(levels, std::less_equal<>()))
        bad_input("levels = {}: allowed are ascending widths from 0 to 8, the last above 0",
                  Json(levels).dump());
    }
  };

  explicit Grinqh(Options options) : options_(std::move(options)) {}

  std::vector<TransformChoice> transforms() const override {
    static const std::map<std::string, std::string> kRotations{
        {"random", "rotate_hadamard"}, {"pca", "rotate_pca"}, {"learned", "rotate_learned"}};
    const auto rotation = kRotations.find(options_.basis);
    if (rotation == kRotations.end()) return {};
    return {{"fold_norms"}, {rotation->second}};
  }

  CollectorNames needs() const override {
    return options_.feedback_bits > 0 ? CollectorNames{kSecondMoment, kHistogram} : CollectorNames{};
  }

  std::unique_ptr<QuantizedLinear> quantize(const LinearTask& task) const override {
    const Matrix<const float> w = task.weight;
    NestedShape shape;
    shape.out = w.rows;
    shape.in = w.cols;
    shape.group = options_.group;
    shape.axis = options_.axis == "input" ? GroupAxis::input : GroupAxis::output;
    shape.levels.assign(options_.levels.begin(), options_.levels.end());
    shape.table_levels = std::min<int>(options_.table, shape.levels.back());

    const std::vector<Grid> grids = find_grids(task, shape);
    MatrixBuffer<uint8_t> codes(w.rows, w.cols);
    parallel_for(w.rows, [&](int64_t row) {
      for (int64_t i = 0; i < w.cols; ++i)
        codes.row(row)[i] = code_of(w(row, i), grid_of(grids, shape, row, i));
    });
    auto plain = make_layer(w, shape, codes, grids, {});
    if (options_.feedback_bits == 0) return plain;
    return round_again(task, shape, grids, *plain);
  }

 private:
  static const Grid& grid_of(const std::vector<Grid>& grids, const NestedShape& shape, int64_t row,
                             int64_t i) {
    return grids[static_cast<size_t>(shape.parameter(row, i))];
  }

  static uint8_t code_of(float weight, const Grid& grid) {
    return nested_code(weight, grid.scale_value(), grid.minimum_value());
  }

  std::unique_ptr<NestedLinear> make_layer(Matrix<const float> w, const NestedShape& shape,
                                           Matrix<const uint8_t> codes, const std::vector<Grid>& grids,
                                           const MatrixBuffer<float>& energies) const {
    auto [scales, minima] = parts_of(grids);
    return std::make_unique<NestedLinear>(shape, codes, std::move(scales), std::move(minima),
                                          fit_table(w, shape, codes, grids, energies));
  }

  // Rounds column by column with feedback. A channel is served at several levels, so its error is the mean of
  // the levels' errors, each weighted by the energy of the channel's input that is served there when the mean
  // level is feedback_bits. `plain` is the layer without feedback, which says what levels decode to.
  std::unique_ptr<QuantizedLinear> round_again(const LinearTask& task, const NestedShape& shape,
                                               const std::vector<Grid>& grids,
                                               const NestedLinear& plain) const {
    const std::span<const float> histogram = task.stats.at(kHistogram);
    const double bits = std::clamp<double>(options_.feedback_bits, shape.levels.front(), shape.levels.back());
    const MatrixBuffer<double> errors = level_errors(task.weight, plain, shape.levels);
    const MatrixBuffer<float> thresholds = unit_thresholds(errors.view(), shape.levels);
    const double scale = solve_threshold_scale(histogram, thresholds.view(), shape.levels, bits);
    const MatrixBuffer<float> shares = energy_shares(histogram, thresholds.view(), scale, shape.levels);
    const MatrixBuffer<float> positions = decode_tables(shape, plain);
    const auto [scales, minima] = parts_of(grids);

    const MatrixBuffer<float> h = live_moments(task.stats.at(kSecondMoment), shape.in);
    const InverseFactor factor = inverse_cholesky(h, options_.damping);
    if (factor.damping > options_.damping) task.note("damping", factor.damping);
    MatrixBuffer<float> compensated(shape.out, shape.in);
    MatrixBuffer<uint8_t> codes(shape.out, shape.in);
    NestedRounding rounding = of_shape(shape);
    rounding.scales = scales;
    rounding.minima = minima;
    rounding.positions = positions;
    rounding.shares = shares;
    rounding.codes = codes;
    rounding.compensated = compensated;
    round_with_feedback(task.weight, factor, {}, rounding);
    if (options_.table_weights == "scale") return make_layer(compensated.view(), shape, codes, grids, {});
    MatrixBuffer<float> energies(shares.rows(), shape.in);
    for (int64_t k = 0; k < shares.rows(); ++k)
      for (int64_t i = 0; i < shape.in; ++i) energies.row(k)[i] = shares.row(k)[i] * h.row(i)[i];
    return make_layer(compensated.view(), shape, codes, grids, energies);
  }

  // Where a weight's grid lies.
  static NestedRounding of_shape(const NestedShape& shape) {
    NestedRounding rounding;
    if (shape.axis == GroupAxis::input) {
      rounding.row_stride = shape.groups();
      rounding.grid_columns = shape.group_size();
      rounding.column_stride = 1;
    } else {
      rounding.grid_rows = shape.group_size();
      rounding.row_stride = 1;
      rounding.column_stride = shape.groups();
    }
    return rounding;
  }

  // Scales and minima.
  static std::pair<std::vector<uint16_t>, std::vector<uint16_t>> parts_of(const std::vector<Grid>& grids) {
    std::pair<std::vector<uint16_t>, std::vector<uint16_t>> parts;
    for (const Grid& grid : grids) {
      parts.first.push_back(grid.scale);
      parts.second.push_back(grid.minimum);
    }
    return parts;
  }

  // Position that each 8-bit code decodes to at each level (level 0: nothing is ever served there).
  static MatrixBuffer<float> decode_tables(const NestedShape& shape, const NestedLinear& layer) {
    auto tables = MatrixBuffer<float>::zeroed(static_cast<int64_t>(shape.levels.size()), kNestedCodes);
    for (int64_t k = 0; k < tables.rows(); ++k) {
      const Level level = shape.levels[static_cast<size_t>(k)];
      for (int code = 0; code < kNestedCodes && level > 0; ++code)
        tables.row(k)[code] = layer.position(level, static_cast<uint8_t>(code));
    }
    return tables;
  }

  std::vector<Grid> find_grids(const LinearTask& task, const NestedShape& shape) const {
    const auto count = static_cast<size_t>(shape.parameters());
    std::vector<float> low(count, HUGE_VALF), high(count, -HUGE_VALF);
    for (int64_t row = 0; row < shape.out; ++row)
      for (int64_t i = 0; i < shape.in; ++i) {
        const auto p = static_cast<size_t>(shape.parameter(row, i));
        low[p] = std::min(low[p], task.weight(row, i));
        high[p] = std::max(high[p], task.weight(row, i));
      }
    std::vector<Grid> grids(count);
    for (size_t p = 0; p < count; ++p) {
      const float margin = static_cast<float>(0.5 * (1.0 - options_.clip)) * (high[p] - low[p]);
      const uint16_t minimum = to_half(low[p] + margin);
      const float range = high[p] - margin - from_half(minimum);
      // Below the smallest float16 a scale would vanish; such a group is constant to that precision.
      const uint16_t scale = std::max<uint16_t>(to_half(std::max(range, 0.0f) / kNestedCodes), 1);
      if (!std::isfinite(from_half(minimum)) || !std::isfinite(from_half(scale)))
        bad_input("{}: weights from {} to {} do not fit into float16", task.id, low[p], high[p]);
      grids[p] = {scale, minimum};
    }
    return grids;
  }

  // For each level and prefix the mean position of its weights, each weighted by its scale squared and by the
  // energy that its channel serves at the level: the value that minimizes the squared output error. A prefix
  // without weights keeps the middle of its cell. energies: [levels, in], or empty.
  std::vector<uint16_t> fit_table(Matrix<const float> w, const NestedShape& shape,
                                  Matrix<const uint8_t> codes, const std::vector<Grid>& grids,
                                  const MatrixBuffer<float>& energies) const {
    std::vector<uint16_t> table;
    for (int level = 1; level <= shape.table_levels; ++level) {
      const auto stored = std::ranges::find(shape.levels, static_cast<Level>(level));
      const bool weighted = energies.size() > 0 && stored != shape.levels.end();
      const float* energy = weighted ? energies.row(stored - shape.levels.begin()) : nullptr;
      // Sums by prefix, a row at a time so that they do not depend on threads.
      std::vector<double> weight_sum(size_t{1} << level), position_sum(weight_sum.size());
      for (int64_t row = 0; row < shape.out; ++row)
        for (int64_t i = 0; i < shape.in; ++i) {
          const Grid& grid = grids[static_cast<size_t>(shape.parameter(row, i))];
          const double scale = grid.scale_value();
          const double weight = scale * scale * (energy ? static_cast<double>(energy[i]) : 1.0);
          const auto prefix = static_cast<size_t>(codes(row, i) >> (8 - level));
          weight_sum[prefix] += weight;
          position_sum[prefix] += weight * static_cast<double>(nested_position(w(row, i), grid.scale_value(),
                                                                               grid.minimum_value()));
        }
      const int cell = kNestedCodes >> level;
      for (size_t prefix = 0; prefix < weight_sum.size(); ++prefix)
        table.push_back(
            to_half(static_cast<float>(weight_sum[prefix] > 0 ? position_sum[prefix] / weight_sum[prefix]
                                                              : (static_cast<double>(prefix) + 0.5) * cell)));
    }
    return table;
  }

  Options options_;
};

const Register<Quantizer, Grinqh> plugin{"grinqh", "nested 8-bit floor codes: every prefix is a code"};

}  // namespace
}  // namespace grinqh
