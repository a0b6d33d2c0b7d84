#include "kernels/nested/cuda_gemv.h"

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "cuda/device_properties.h"
#include "cuda/gemv.h"
#include "cuda/layer_buffers.h"
#include "kernels/nested/layout.h"

namespace grinqh::cuda {

namespace {

// Whether a warp's outputs and a product's channels have one grid each.
bool has_order(const NestedShape& shape) {
  constexpr int64_t kMost = int64_t{1} << 20;  // channels, so that offsets fit their fields
  const int64_t extent = shape.axis == GroupAxis::input ? shape.in : shape.out, group = shape.group_size();
  const int64_t multiple = shape.axis == GroupAxis::input ? NestedOrder::kBlock : NestedOrder::kPart;
  return shape.table_levels == 0 && shape.planes() > 0 && shape.in <= kMost / 2 && shape.out <= kMost &&
         (group == extent || group % multiple == 0);
}

bool alike(const NestedShape& a, const NestedShape& b) {
  // Groups along the outputs are the packing's business alone.
  return a.in == b.in && a.axis == b.axis && a.levels == b.levels &&
         (a.axis == GroupAxis::output || a.group_size() == b.group_size());
}

NestedOrder order_of(const NestedShape& shape, int across) {
  NestedOrder order;
  order.across = across;
  order.in = static_cast<int>(shape.in);
  order.padded_in = (order.in + NestedOrder::kBlock - 1) / NestedOrder::kBlock * NestedOrder::kBlock;
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

class NestedGemv final : public Gemv {
 public:
  NestedGemv(GemvLayers layers, int64_t out, int multiprocessors, Stream stream)
      : Gemv(out, layers.front()->in()), multiprocessors_(multiprocessors) {
    const NestedShape first = NestedShape::of(layers.front()->attributes());
    levels_ = first.levels;
    weights_.order = order_of(first, nested_parts_across(out, multiprocessors));
    weights_.by_input = first.axis == GroupAxis::input;
    weights_.groups = static_cast<int>(first.groups());
    weights_.group = weights_.groups == 1 ? weights_.order.padded_in : static_cast<int>(first.group_size());
    for (const QuantizedLinear* layer : layers) {
      const int64_t tiles = (layer->out() + weights_.order.tile() - 1) / weights_.order.tile();
      const int at = weights_.layers++;
      weights_.first_tile[at + 1] = weights_.first_tile[at] + static_cast<int>(tiles);
      weights_.first_output[at + 1] = weights_.first_output[at] + static_cast<int>(layer->out());
      grid_bytes_read_.push_back(NestedShape::of(layer->attributes()).parameters() * kGrid);
    }
    allocate(stream);
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
      pack_nested_grids(source, weights_.order, weights_.by_input,
                        grids_.as<uint32_t>() + tile * grids_of_tile(), stream);
      check_call(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    }
  }

  int64_t bytes() const override { return digits_.size() + grids_.size(); }

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
      bytes += weights_.by_input ? grid_bytes_read_[layer] : grid_bytes_read_[layer] / in() * read;
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
    nested_gemv(weights_, of_layers, input, output, multiprocessors_, stream);
  }

 private:
  static constexpr int64_t kGrid = 4;  // bytes

  NestedGemv(const NestedGemv& other, Stream stream)
      : Gemv(other.out(), other.in()),
        levels_(other.levels_),
        grid_bytes_read_(other.grid_bytes_read_),
        weights_(other.weights_),
        multiprocessors_(other.multiprocessors_) {
    allocate(stream);
  }

  int64_t grids_of_tile() const {
    const int64_t part =
        weights_.by_input ? int64_t{weights_.groups} * NestedOrder::kPart : weights_.order.padded_in;
    return weights_.order.across * part;
  }
  void allocate(Stream stream) {
    digits_ = Bytes(weights_.tiles() * weights_.order.tile_bytes(), stream);
    grids_ = Bytes(weights_.tiles() * grids_of_tile() * kGrid, stream);
    weights_.digits = digits_.as<uint8_t>();
    weights_.grids = grids_.as<uint32_t>();
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
  Bytes digits_, grids_;
  int multiprocessors_ = 0;
};

std::unique_ptr<Gemv> make(GemvLayers layers, Stream stream) {
  const DeviceProperties device = device_properties();
  if (device.major < 9 || std::ssize(layers) > kMaxNestedLayers) return nullptr;
  int64_t out = 0;
  for (const QuantizedLinear* layer : layers) {
    const NestedShape shape = NestedShape::of(layer->attributes());
    if (!has_order(shape) || !alike(shape, NestedShape::of(layers.front()->attributes()))) return nullptr;
    out += layer->out();
  }
  return std::make_unique<NestedGemv>(layers, out, device.multiprocessors, stream);
}

const RegisterGemv registered{"nested", "slots",
                              "rows of digits on integer tensor cores; unread rows are not fetched", make};

}  // namespace

}  // namespace grinqh::cuda
