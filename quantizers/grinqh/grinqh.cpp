// The nested code of GRINQH (arXiv 2606.23419; the code is reconstructed, see PROVENANCE.md): 8-bit floor
// codes per group, of which every prefix decodes to the middle of its cell. What is read of them is the
// policy's business (policy.cpp).
#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "core/half.h"
#include "core/parallel.h"
#include "core/timed_scope.h"
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

// The grids of all groups, by NestedShape::parameter(): position p in [0, 256] stands for minimum + scale p.
struct Grids {
  std::vector<uint16_t> scales, minima;  // float16, as they are stored
};

// What the weights of a row meet, decoded. Rows that follow each other mostly share it.
class RowGrids {
 public:
  RowGrids(const NestedShape& shape, const Grids& grids)
      : shape_(shape),
        grids_(grids),
        scale_(static_cast<size_t>(shape.in)),
        minimum_(static_cast<size_t>(shape.in)) {}

  void move_to(int64_t row) {
    const int64_t band = shape_.axis == GroupAxis::input ? row : row / shape_.group_size();
    if (std::exchange(band_, band) == band) return;
    const int64_t shared = shape_.axis == GroupAxis::input ? shape_.group_size() : 1;  // channels
    for (int64_t begin = 0; begin < shape_.in; begin += shared) {
      const auto parameter = static_cast<size_t>(shape_.parameter(row, begin));
      const int64_t count = std::min(shared, shape_.in - begin);
      std::fill_n(scale_.begin() + begin, count, from_half(grids_.scales[parameter]));
      std::fill_n(minimum_.begin() + begin, count, from_half(grids_.minima[parameter]));
    }
  }
  float scale(int64_t channel) const { return scale_[static_cast<size_t>(channel)]; }
  float minimum(int64_t channel) const { return minimum_[static_cast<size_t>(channel)]; }

 private:
  const NestedShape& shape_;
  const Grids& grids_;
  int64_t band_ = -1;
  std::vector<float> scale_, minimum_;  // [in]
};

// Sums over weights by the prefixes of their codes: entries of all levels as a layer's table has them.
struct PrefixSums {
  std::vector<double> weight, position;

  explicit PrefixSums(int levels)
      : weight(static_cast<size_t>(NestedShape::table_offset(levels + 1))), position(weight.size()) {}

  // A row's weights at one level. counts: what each channel counts for; null: all alike.
  void add_row(int level, const RowGrids& grids, std::span<const uint8_t> codes,
               std::span<const float> positions, const float* counts) {
    double* weights = weight.data() + NestedShape::table_offset(level);
    double* sums = position.data() + NestedShape::table_offset(level);
    for (size_t i = 0; i < codes.size(); ++i) {
      const double scale = grids.scale(static_cast<int64_t>(i));
      const double each = scale * scale * (counts ? static_cast<double>(counts[i]) : 1.0);
      const int prefix = codes[i] >> (8 - level);
      weights[prefix] += each;
      sums[prefix] += each * static_cast<double>(positions[i]);
    }
  }
  // The sums of a level from those of a finer one, if channels count alike at both.
  void add_finer(int level, int finer) {
    const auto coarse = static_cast<size_t>(NestedShape::table_offset(level));
    const auto fine = static_cast<size_t>(NestedShape::table_offset(finer));
    for (size_t prefix = 0; prefix < size_t{1} << finer; ++prefix) {
      weight[coarse + (prefix >> (finer - level))] += weight[fine + prefix];
      position[coarse + (prefix >> (finer - level))] += position[fine + prefix];
    }
  }
  void add(const PrefixSums& other) {
    for (size_t i = 0; i < weight.size(); ++i) {
      weight[i] += other.weight[i];
      position[i] += other.position[i];
    }
  }
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

    const Grids grids = find_grids(task, shape);
    MatrixBuffer<uint8_t> codes(w.rows, w.cols);
    std::optional<TimedScope> rounding("grinqh: codes");
    for_row_tasks(shape, grids, [&](int64_t, int64_t row, const RowGrids& here) {
      const float* weight = w.row(row);
      uint8_t* code = codes.row(row);
      for (int64_t i = 0; i < w.cols; ++i) code[i] = nested_code(weight[i], here.scale(i), here.minimum(i));
    });
    rounding.reset();
    auto plain = make_layer(w, shape, codes, grids, {});
    if (options_.feedback_bits == 0) return plain;
    return round_again(task, shape, grids, *plain);
  }

 private:
  static constexpr int64_t kTaskRows = 64;
  static int64_t row_tasks(const NestedShape& shape) { return (shape.out + kTaskRows - 1) / kTaskRows; }

  // body(task, row, its grids) for every row; a task's rows in their order.
  template <class Body>
  static void for_row_tasks(const NestedShape& shape, const Grids& grids, const Body& body) {
    parallel_for(row_tasks(shape), [&](int64_t task) {
      RowGrids here(shape, grids);
      for (int64_t row = task * kTaskRows; row < std::min((task + 1) * kTaskRows, shape.out); ++row) {
        here.move_to(row);
        body(task, row, here);
      }
    });
  }

  std::unique_ptr<NestedLinear> make_layer(Matrix<const float> w, const NestedShape& shape,
                                           Matrix<const uint8_t> codes, const Grids& grids,
                                           const MatrixBuffer<float>& energies) const {
    const TimedScope timed("grinqh: table and planes");
    return std::make_unique<NestedLinear>(shape, codes, grids.scales, grids.minima,
                                          fit_table(w, shape, codes, grids, energies));
  }

  // Rounds column by column with feedback. A channel is served at several levels, so its error is the mean of
  // the levels' errors, each weighted by the energy of the channel's input that is served there when the mean
  // level is feedback_bits. `plain` is the layer without feedback, which says what levels decode to.
  std::unique_ptr<QuantizedLinear> round_again(const LinearTask& task, const NestedShape& shape,
                                               const Grids& grids, const NestedLinear& plain) const {
    const std::span<const float> histogram = task.stats.at(kHistogram);
    const double bits = std::clamp<double>(options_.feedback_bits, shape.levels.front(), shape.levels.back());
    const MatrixBuffer<double> errors = level_errors(task.weight, plain, shape.levels);
    const MatrixBuffer<float> thresholds = unit_thresholds(errors.view(), shape.levels);
    const double scale = solve_threshold_scale(histogram, thresholds.view(), shape.levels, bits);
    const MatrixBuffer<float> shares = energy_shares(histogram, thresholds.view(), scale, shape.levels);
    const MatrixBuffer<float> positions = decode_tables(shape, plain);

    const auto shared = live_factor(task.stats, kSecondMoment, shape.in, options_.damping);
    const InverseFactor& factor = *shared;
    if (factor.damping > options_.damping) task.note("damping", factor.damping);
    MatrixBuffer<float> compensated(shape.out, shape.in);
    MatrixBuffer<uint8_t> codes(shape.out, shape.in);
    NestedRounding rounding = of_shape(shape);
    rounding.scales = grids.scales;
    rounding.minima = grids.minima;
    rounding.positions = positions;
    rounding.shares = shares;
    rounding.codes = codes;
    rounding.compensated = compensated;
    round_with_feedback(task.weight, factor, {}, rounding);
    if (options_.table_weights == "scale") return make_layer(compensated.view(), shape, codes, grids, {});
    MatrixBuffer<float> energies(shares.rows(), shape.in);
    const std::span<const float> moments = task.stats.at(kSecondMoment);
    for (int64_t i = 0; i < shape.in; ++i) {
      const float moment = moments[static_cast<size_t>(i * (shape.in + 1))];
      for (int64_t k = 0; k < shares.rows(); ++k)
        energies.row(k)[i] = shares.row(k)[i] * (moment == 0 ? 1.0f : moment);
    }
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

  // For each level and prefix the mean position of its weights, each weighted by its scale squared and by the
  // energy that its channel serves at the level: the value that minimizes the squared output error. A prefix
  // without weights keeps the middle of its cell. energies: [levels, in], or empty.
  static std::vector<uint16_t> fit_table(Matrix<const float> w, const NestedShape& shape,
                                         Matrix<const uint8_t> codes, const Grids& grids,
                                         const MatrixBuffer<float>& energies) {
    const int levels = shape.table_levels;
    std::vector<const float*> counts(static_cast<size_t>(levels + 1), nullptr);  // of each level's channels
    for (size_t k = 0; k < shape.levels.size() && energies.size() > 0; ++k)
      if (shape.levels[k] <= levels) counts[shape.levels[k]] = energies.row(static_cast<int64_t>(k));
    // The finest level where all channels count alike says what such levels below it need.
    int finest = levels;
    while (finest > 0 && counts[static_cast<size_t>(finest)]) --finest;
    const auto from_finer = [&](int level) { return level < finest && !counts[static_cast<size_t>(level)]; };
    std::vector<PrefixSums> parts(static_cast<size_t>(row_tasks(shape)), PrefixSums(levels));
    for_row_tasks(shape, grids, [&](int64_t task, int64_t row, const RowGrids& here) {
      thread_local std::vector<float> positions;
      positions.resize(static_cast<size_t>(shape.in));
      for (int64_t i = 0; i < shape.in; ++i)
        positions[static_cast<size_t>(i)] = nested_position(w(row, i), here.scale(i), here.minimum(i));
      for (int level = 1; level <= levels; ++level)
        if (!from_finer(level))
          parts[static_cast<size_t>(task)].add_row(level, here, codes.row_span(row), positions,
                                                   counts[static_cast<size_t>(level)]);
    });
    PrefixSums sums(levels);
    for (const PrefixSums& part : parts) sums.add(part);
    for (int level = 1; level < finest; ++level)
      if (from_finer(level)) sums.add_finer(level, finest);

    std::vector<uint16_t> table;
    for (int level = 1; level <= levels; ++level)
      for (int prefix = 0; prefix < 1 << level; ++prefix) {
        const double weight = sums.weight[table.size()], position = sums.position[table.size()];
        const double middle = (prefix + 0.5) * (kNestedCodes >> level);
        table.push_back(to_half(static_cast<float>(weight > 0 ? position / weight : middle)));
      }
    return table;
  }

  Options options_;
};

const Register<Quantizer, Grinqh> plugin{"grinqh", "nested 8-bit floor codes: every prefix is a code"};

}  // namespace
}  // namespace grinqh
