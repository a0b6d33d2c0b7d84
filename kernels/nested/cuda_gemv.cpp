#include "kernels/nested/cuda_gemv.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <vector>

#include "core/error.h"
#include "core/half.h"
#include "cuda/device_properties.h"
#include "cuda/gemv.h"
#include "cuda/layer_buffers.h"
#include "kernels/nested/cuda_gemv_division.h"
#include "kernels/nested/layout.h"

namespace grinqh::cuda {

namespace {

constexpr int64_t kLeastInputGroup = 32;

// Outputs that share a scale with their tile's others: columns of NestedStream; -1 if groups are cut too
// fine.
int columns_of(const NestedShape& shape) {
  if (shape.axis == GroupAxis::input) return 0;
  const int64_t group = shape.group_size();
  if (group == shape.out) return 1;
  for (const int columns : {1, 2, 4})
    if (group % (NestedOrder::kTile / columns) == 0) return columns;
  return -1;
}

// The highest level that the layer stores and reads by a table; 0: none.
int highest_tabled(const NestedShape& shape) {
  int highest = 0;
  for (const Level level : shape.levels)
    if (level <= shape.table_levels) highest = std::max<int>(highest, level);
  return highest;
}

bool has_order(const NestedShape& shape) {
  constexpr int64_t kMost = int64_t{1} << 20;  // so that offsets fit their types
  const bool whole = shape.group_size() == shape.in;
  return highest_tabled(shape) <= NestedTable::kMaxLevel && shape.planes() > 0 && shape.in <= kMost / 2 &&
         shape.out <= kMost && columns_of(shape) >= 0 &&
         (shape.axis == GroupAxis::output || whole || shape.group_size() % kLeastInputGroup == 0);
}

// False if an entry lies outside of what the kernel's tables hold.
bool pack_table(const QuantizedLinear& layer, int level, NestedTable& packed) {
  for (const NamedBuffer& buffer : layer.buffers()) {
    if (buffer.name != "table") continue;
    const auto* entries =
        reinterpret_cast<const uint16_t*>(buffer.bytes.data()) + NestedShape::table_offset(level);
    for (int prefix = 0; prefix < 1 << level; ++prefix) {
      const float steps = std::round(from_half(entries[prefix]) * 256);
      if (!(steps >= 0 && steps < 65536)) return false;
      const auto entry = static_cast<uint32_t>(steps);
      packed.high[prefix / 4] |= (entry >> 8) << 8 * (prefix % 4);
      packed.low[prefix / 4] |= (entry & 255) << 8 * (prefix % 4);
    }
    return true;
  }
  return false;
}

bool alike(const NestedShape& a, const NestedShape& b) {
  // Groups along the outputs are the packing's business alone.
  return a.in == b.in && a.axis == b.axis && a.levels == b.levels && highest_tabled(a) == highest_tabled(b) &&
         (a.axis == GroupAxis::output || a.group_size() == b.group_size());
}

NestedOrder order_of(const NestedShape& shape) {
  NestedOrder order;
  order.in = static_cast<int>(shape.in);
  order.padded_in = (order.in + NestedOrder::kStep - 1) / NestedOrder::kStep * NestedOrder::kStep;
  int from = 0;
  for (const int level : shape.levels)
    while (from < level) {
      const auto plane = static_cast<size_t>(order.planes++);
      order.begin[plane] = static_cast<uint8_t>(from);
      from += level - from >= 2 ? 2 : 1;
      order.end[plane] = static_cast<uint8_t>(from);
    }
  return order;
}

// All but addresses, and who multiplies what: with a single token, with several.
struct Description {
  NestedStream weights;
  std::array<NestedDivision, 2> divisions;
};

NestedSchedule& schedule_of(NestedStream& weights, size_t division) {
  return division == 0 ? weights.single_token : weights.several_tokens;
}

void add_divisions(Description& all, int blocks) {
  NestedStream& weights = all.weights;
  NestedTiles tiles;
  tiles.first_tile.assign(weights.first_tile, weights.first_tile + weights.layers + 1);
  tiles.first_output.assign(weights.first_output, weights.first_output + weights.layers + 1);
  tiles.in = weights.order.in;
  for (size_t i = 0; i < all.divisions.size(); ++i) {
    const NestedCut cut = nested_cut(weights, i > 0);
    NestedDivision& division = all.divisions[i];
    division = divide(tiles, blocks, cut.warps, cut.most_unit);
    if (!division.single) division = divide(tiles, blocks, cut.warps, cut.most_unit_of_many);
    NestedSchedule& schedule = schedule_of(weights, i);
    schedule.runs = division.runs;
    schedule.blocks = blocks;
    schedule.sums_of_block = division.sums_of_block;
    schedule.unit = division.unit;
    schedule.single = division.single;
  }
}

// Nothing if the kernel cannot take the layers, or not together. blocks: of a launch.
std::optional<Description> described(GemvLayers layers, int blocks) {
  constexpr int64_t kMostBytes = int64_t{1} << 36;  // so that offsets fit their types
  const NestedShape first = NestedShape::of(layers.front()->attributes());
  Description all;
  NestedStream& weights = all.weights;
  weights.order = order_of(first);
  const int tabled = highest_tabled(first);
  while (weights.tabled_planes < weights.order.planes && weights.order.end[weights.tabled_planes] <= tabled)
    ++weights.tabled_planes;
  weights.groups = static_cast<int>(first.groups());
  weights.group = weights.groups == 1 ? weights.order.padded_in : static_cast<int>(first.group_size());
  weights.columns = columns_of(first);
  for (const QuantizedLinear* layer : layers) {
    const NestedShape shape = NestedShape::of(layer->attributes());
    if (!has_order(shape) || !alike(shape, first)) return std::nullopt;
    weights.columns = std::max(weights.columns, columns_of(shape));
    const int at = weights.layers++;
    const int64_t tiles = (shape.out + NestedOrder::kTile - 1) / NestedOrder::kTile;
    weights.first_tile[at + 1] = weights.first_tile[at] + static_cast<int>(tiles);
    weights.first_output[at + 1] = weights.first_output[at] + static_cast<int>(shape.out);
    for (const Level level : shape.levels)
      if (level > 0 && level <= tabled && !pack_table(*layer, level, weights.tables[at][level]))
        return std::nullopt;
  }
  if (weights.tiles() * weights.order.tile_bytes() > kMostBytes) return std::nullopt;
  add_divisions(all, blocks);
  if (!nested_gemv_fits(weights)) return std::nullopt;
  return all;
}

class NestedGemv final : public Gemv {
 public:
  // all: as described() by the layers.
  NestedGemv(GemvLayers layers, const Description& all, Stream stream)
      : Gemv(all.weights.first_output[all.weights.layers], layers.front()->in()),
        levels_(NestedShape::of(layers.front()->attributes()).levels),
        weights_(all.weights) {
    for (const QuantizedLinear* layer : layers)
      grid_bytes_read_.push_back(NestedShape::of(layer->attributes()).parameters() * kGrid);
    for (const NestedDivision& division : all.divisions) sums_.push_back(std::ssize(division.sums));
    allocate(stream);
    put_schedules(all, stream);
    for (int at = 0; at < weights_.layers; ++at) {
      const QuantizedLinear& layer = *layers[static_cast<size_t>(at)];
      const LayerBuffers buffers(layer, stream);
      const NestedShape shape = NestedShape::of(layer.attributes());
      const NestedSource source{buffers.get<uint8_t>("planes"),
                                buffers.get<uint16_t>("scales"),
                                buffers.get<uint16_t>("minima"),
                                shape.out,
                                shape.in,
                                shape.group_size(),
                                shape.groups()};
      const int64_t tile = weights_.first_tile[at];
      pack_nested_digits(source, weights_.order, digits_.as<uint8_t>() + tile * weights_.order.tile_bytes(),
                         stream);
      pack_nested_grids(source, weights_.order, weights_.columns,
                        grids_.as<uint32_t>() + tile * weights_.grids_of_tile(), stream);
      check_call(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    }
  }

  int64_t bytes() const override { return digits_.size() + grids_.size() + schedules_.size(); }

  int64_t bytes_read(std::span<const LevelCounts> counts) const override {
    check(std::ssize(counts) == weights_.layers, "nested gemv: one count a layer");
    int64_t bytes = 0;
    for (int at = 0; at < weights_.layers; ++at) {
      const auto layer = static_cast<size_t>(at);
      const int64_t outputs = weights_.first_output[at + 1] - weights_.first_output[at];
      int64_t read = 0;
      for (size_t level = 1; level <= 8; ++level) {
        const int64_t channels = counts[layer].channels[level];
        bytes += channels * static_cast<int64_t>(level) * ((outputs + 7) / 8);
        read += channels;
      }
      bytes += weights_.by_input() ? grid_bytes_read_[layer] : grid_bytes_read_[layer] / in() * read;
    }
    return bytes;
  }

  std::unique_ptr<Gemv> clone(Stream stream) const override {
    auto copy = std::unique_ptr<NestedGemv>(new NestedGemv(*this, stream));
    const auto duplicate = [&](const Bytes& from, const Bytes& to) {
      check_call(cudaMemcpyAsync(to.data(), from.data(), static_cast<size_t>(from.size()),
                                 cudaMemcpyDeviceToDevice, stream),
                 "cudaMemcpyAsync");
    };
    duplicate(digits_, copy->digits_);
    duplicate(grids_, copy->grids_);
    duplicate(schedules_, copy->schedules_);
    return copy;
  }

  void run(const GemvInput& input, std::span<const GemvReading> readings, const GemvOutput& output,
           Stream stream) override {
    check(std::ssize(readings) == weights_.layers && output.y.cols == out() &&
              input.x.rows == output.y.rows && input.x.rows <= kMaxGemvTokens,
          "nested gemv: shapes");
    if (input.x.rows == 0) return;
    NestedReading of_layers[kMaxNestedLayers];
    for (size_t i = 0; i < readings.size(); ++i) of_layers[i] = resolved(readings[i]);
    nested_gemv(weights_, of_layers, input, output, stream);
  }

 private:
  static constexpr int64_t kGrid = 4;  // bytes

  NestedGemv(const NestedGemv& other, Stream stream)
      : Gemv(other.out(), other.in()),
        levels_(other.levels_),
        grid_bytes_read_(other.grid_bytes_read_),
        weights_(other.weights_),
        sums_(other.sums_) {
    allocate(stream);
  }

  int64_t sum_bytes() const { return (sums_[0] + sums_[1]) * static_cast<int64_t>(sizeof(NestedSums)); }
  int64_t exchange_bytes() const {
    return int64_t{weights_.single_token.blocks} * NestedSchedule::kMostTokens * NestedOrder::kTile * 4;
  }

  void allocate(Stream stream) {
    digits_ = Bytes(weights_.tiles() * weights_.order.tile_bytes(), stream);
    grids_ = Bytes(weights_.tiles() * weights_.grids_of_tile() * kGrid, stream);
    weights_.digits = digits_.as<uint8_t>();
    weights_.grids = grids_.as<uint32_t>();
    // Sums of each schedule one after another, then what both exchange.
    schedules_ = Bytes(sum_bytes() + exchange_bytes(), stream);
    const auto* sums = schedules_.as<NestedSums>();
    for (size_t i = 0; i < sums_.size(); sums += sums_[i++]) {
      schedule_of(weights_, i).sums = sums;
      schedule_of(weights_, i).exchange = reinterpret_cast<float*>(schedules_.as<uint8_t>() + sum_bytes());
    }
  }

  void put_schedules(const Description& all, Stream stream) {
    static_assert(sizeof(NestedSums) == 32);
    std::vector<NestedSums> sums;
    for (const NestedDivision& division : all.divisions)
      sums.insert(sums.end(), division.sums.begin(), division.sums.end());
    check_call(cudaMemcpyAsync(schedules_.data(), sums.data(), static_cast<size_t>(sum_bytes()),
                               cudaMemcpyHostToDevice, stream),
               "cudaMemcpyAsync");
    check_call(cudaMemsetAsync(schedules_.as<uint8_t>() + sum_bytes(), NestedSchedule::kNothing & 255,
                               static_cast<size_t>(exchange_bytes()), stream),
               "cudaMemsetAsync");
    check_call(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  }

  NestedReading resolved(const GemvReading& reading) const {
    NestedReading all;
    const auto stored = [&](int level) {
      check(level == 0 || std::ranges::count(levels_, level) > 0,
            "nested gemv: a level that the layer does not store");
    };
    if (reading.grading == nullptr) {
      all.level = reading.level == kFullLevel ? levels_.back() : reading.level;
      stored(all.level);
      return all;
    }
    check(reading.grading->budget < 0 && reading.grading->count > 0, "nested gemv: a rule without budget");
    all.rule = *reading.grading;
    for (int i = 0; i < all.rule.count; ++i) stored(all.rule.levels[i]);
    return all;
  }

  std::vector<Level> levels_;
  std::vector<int64_t> grid_bytes_read_;  // of a layer, all its channels
  NestedStream weights_;
  std::vector<int64_t> sums_;  // rows of each schedule
  Bytes digits_, grids_, schedules_;
};

std::unique_ptr<Gemv> make(GemvLayers layers, Stream stream) {
  const DeviceProperties device = device_properties();
  if (device.major < 9 || std::ssize(layers) > kMaxNestedLayers) return nullptr;
  const std::optional<Description> all = described(layers, device.multiprocessors);
  if (!all) return nullptr;
  return std::make_unique<NestedGemv>(layers, *all, stream);
}

const RegisterGemv registered{"nested", "slots",
                              "rows of digits on integer tensor cores; unread rows are not fetched", make};

}  // namespace

}  // namespace grinqh::cuda
