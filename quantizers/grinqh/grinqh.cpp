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
#include "core/timed_scope.h"
#include "kernels/nested/layout.h"
#include "quant/column_feedback.h"
#include "quant/grading_rule.h"
#include "quant/live_layer.h"
#include "quant/nested_fit.h"
#include "quant/quantizer.h"
#include "quant/rounding_rules.h"

namespace grinqh {
namespace {

constexpr const char* kSecondMoment = "second_moment";
constexpr const char* kHistogram = "magnitude_histogram";

// The grids of all groups, by NestedShape::parameter(): position p in [0, 256] stands for minimum + scale p.
struct Grids {
  std::vector<uint16_t> scales, minima;  // float16, as they are stored
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

    Grids grids = find_grids(task, shape);
    MatrixBuffer<uint8_t> codes(w.rows, w.cols);
    std::vector<PrefixSums> sums = table_sums(shape.table_levels, shape.levels, {});
    const NestedGrids where = grids_of(shape, grids);
    {
      const TimedScope timed("grinqh: table");
      sum_prefixes(w, where, sums);
    }
    std::vector<uint16_t> table = fitted_table(shape.table_levels, sums);
    if (options_.feedback_bits > 0) {
      table = round_again(task, shape, where, table, codes);
    } else {
      const TimedScope timed("grinqh: codes");
      round_to_cells(w, where, codes);
    }
    const TimedScope timed("grinqh: planes");
    return std::make_unique<NestedLinear>(shape, codes, std::move(grids.scales), std::move(grids.minima),
                                          std::move(table));
  }

 private:
  // Where a weight's grid lies.
  static NestedGrids grids_of(const NestedShape& shape, const Grids& grids) {
    NestedGrids where;
    if (shape.axis == GroupAxis::input) {
      where.row_stride = shape.groups();
      where.grid_columns = shape.group_size();
      where.column_stride = 1;
    } else {
      where.grid_rows = shape.group_size();
      where.row_stride = 1;
      where.column_stride = shape.groups();
    }
    where.scales = grids.scales;
    where.minima = grids.minima;
    return where;
  }

  // Rounds column by column with feedback, and gives the table that fits what was rounded. A channel is
  // served at several levels, so its error is the mean of the levels' errors, each weighted by the energy of
  // the channel's input that is served there when the mean level is feedback_bits. `table` is the one without
  // feedback, which says what levels decode to.
  std::vector<uint16_t> round_again(const LinearTask& task, const NestedShape& shape,
                                    const NestedGrids& grids, std::span<const uint16_t> table,
                                    Matrix<uint8_t> codes) const {
    const std::span<const Level> levels = shape.levels;
    const MatrixBuffer<float> positions = nested_positions(levels, table);
    const MatrixBuffer<float> shares = served_shares(
        task.stats.at(kHistogram), nested_errors(task.weight, grids, levels, positions), levels);
    MatrixBuffer<float> energies;
    if (options_.table_weights == "energy") energies = served_energies(task.stats.at(kSecondMoment), shares);
    std::vector<PrefixSums> sums = table_sums(shape.table_levels, levels, energies);

    const auto shared = live_factor(task.stats, kSecondMoment, shape.in, options_.damping);
    const InverseFactor& factor = *shared;
    if (factor.damping > options_.damping) task.note("damping", factor.damping);
    round_with_feedback(task.weight, factor, {}, NestedRounding{grids, positions, shares, codes, {}, sums});
    return fitted_table(shape.table_levels, sums);
  }

  // The share of each channel's energy that is served at each level when the mean level is feedback_bits.
  MatrixBuffer<float> served_shares(std::span<const float> histogram, const MatrixBuffer<double>& errors,
                                    std::span<const Level> levels) const {
    const TimedScope timed("grinqh: shares");
    const double bits = std::clamp<double>(options_.feedback_bits, levels.front(), levels.back());
    const MatrixBuffer<float> thresholds = unit_thresholds(errors, levels);
    const double scale = solve_threshold_scale(histogram, thresholds.view(), levels, bits);
    return energy_shares(histogram, thresholds.view(), scale, levels);
  }

  // The same in units of the inputs' second moments; a channel that is always zero counts by its share.
  static MatrixBuffer<float> served_energies(std::span<const float> moments,
                                             const MatrixBuffer<float>& shares) {
    MatrixBuffer<float> energies(shares.rows(), shares.cols());
    for (int64_t i = 0; i < shares.cols(); ++i) {
      const float moment = moments[static_cast<size_t>(i * (shares.cols() + 1))];
      for (int64_t k = 0; k < shares.rows(); ++k)
        energies.row(k)[i] = shares.row(k)[i] * (moment == 0 ? 1.0f : moment);
    }
    return energies;
  }

  Grids find_grids(const LinearTask& task, const NestedShape& shape) const {
    const TimedScope timed("grinqh: grids");
    const auto count = static_cast<size_t>(shape.parameters());
    Grids grids{std::vector<uint16_t>(count), std::vector<uint16_t>(count)};
    // A group lies in one tile: some channels by the rows of a group, or a row by all channels.
    const bool along_inputs = shape.axis == GroupAxis::input;
    const int64_t tile_rows = along_inputs ? 1 : shape.group_size();
    const int64_t tile_channels = along_inputs ? shape.in : 256;
    const int64_t across = (shape.in + tile_channels - 1) / tile_channels;
    parallel_for((shape.out + tile_rows - 1) / tile_rows * across, [&](int64_t tile) {
      const int64_t first_row = tile / across * tile_rows, first = tile % across * tile_channels;
      const int64_t end_row = std::min(first_row + tile_rows, shape.out);
      const int64_t channels = std::min(tile_channels, shape.in - first);
      std::vector<float> low(static_cast<size_t>(channels), HUGE_VALF), high(low.size(), -HUGE_VALF);
      for (int64_t row = first_row; row < end_row; ++row) {
        const float* weight = task.weight.row(row) + first;
        for (size_t i = 0; i < low.size(); ++i) {
          low[i] = weight[i] < low[i] ? weight[i] : low[i];
          high[i] = high[i] < weight[i] ? weight[i] : high[i];
        }
      }
      const int64_t shared = along_inputs ? shape.group_size() : 1;  // channels of one group
      for (int64_t begin = 0; begin < channels; begin += shared) {
        const int64_t end = std::min(begin + shared, channels);
        set_grid(*std::min_element(low.begin() + begin, low.begin() + end),
                 *std::max_element(high.begin() + begin, high.begin() + end), task.id,
                 static_cast<size_t>(shape.parameter(first_row, first + begin)), grids);
      }
    });
    return grids;
  }

  void set_grid(float low, float high, const std::string& layer, size_t parameter, Grids& grids) const {
    const float margin = static_cast<float>(0.5 * (1.0 - options_.clip)) * (high - low);
    const uint16_t minimum = to_half(low + margin);
    const float range = high - margin - from_half(minimum);
    // Below the smallest float16 a scale would vanish; such a group is constant to that precision.
    const uint16_t scale = std::max<uint16_t>(to_half(std::max(range, 0.0f) / kNestedCodes), 1);
    if (!is_finite_half(minimum) || !is_finite_half(scale))
      bad_input("{}: weights from {} to {} do not fit into float16", layer, low, high);
    grids.scales[parameter] = scale;
    grids.minima[parameter] = minimum;
  }

  Options options_;
};

const Register<Quantizer, Grinqh> plugin{"grinqh", "nested 8-bit floor codes: every prefix is a code"};

}  // namespace
}  // namespace grinqh
