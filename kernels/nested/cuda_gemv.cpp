#include "kernels/nested/cuda_gemv.h"

#include <algorithm>

#include "core/error.h"
#include "cuda/gemv.h"
#include "cuda/layer_buffers.h"
#include "kernels/nested/layout.h"

namespace grinqh::cuda {

namespace {

constexpr int64_t kWideTile = 1024, kNarrowTile = 512, kSlice = 128, kMaxPart = 128;

NestedShape shape_of(const QuantizedLinear& layer) {
  const Json attributes = layer.attributes();
  NestedShape shape;
  shape.out = layer.out();
  shape.in = layer.in();
  shape.group = attributes.at("group");
  shape.axis = attributes.at("axis") == "input" ? GroupAxis::input : GroupAxis::output;
  shape.levels.assign(layer.levels().begin(), layer.levels().end());
  shape.table_levels = attributes.at("table_levels");
  return shape;
}

// Inputs that share a grid and a step of the kernel: whole blocks of 32 channels. 0: there are none.
int64_t input_part(const NestedShape& shape) {
  const int64_t group = shape.group_size();
  if (group >= shape.in) return kMaxPart;
  if (group % kMaxPart == 0) return kMaxPart;
  return group < kMaxPart && group % 32 == 0 ? group : 0;
}

// Outputs of a tile that share a grid: whole slices, so that a warp has one. 0: they do not.
int64_t output_part(const NestedShape& shape, int64_t tile) {
  const int64_t group = shape.group_size();
  if (group >= shape.out) return tile;
  if (group % kSlice != 0 || (tile % group != 0 && group % tile != 0)) return 0;
  return std::min(group, tile);
}

// Digits of two bits wherever no level lies between them.
NestedDigitPlanes planes_of(const NestedShape& shape, int64_t tile, int64_t& tile_bytes) {
  NestedDigitPlanes planes;
  tile_bytes = 0;
  const auto add = [&](int end, int bits) {
    const auto at = static_cast<size_t>(planes.count++);
    planes.end[at] = static_cast<uint8_t>(end);
    planes.offset[at] = static_cast<int32_t>(tile_bytes);
    planes.first_end = std::min(planes.first_end, end);
    tile_bytes += shape.in * tile * bits / 8;
  };
  for (const int bits : {2, 1}) {
    int from = 0;
    for (const int level : shape.levels)
      while (from < level) {
        const int width = level - from >= 2 ? 2 : 1;
        from += width;
        if (width == bits) add(from, bits);
      }
    if (bits == 2) planes.pairs = planes.count;
  }
  return planes;
}

// Fewer outputs a tile let fewer blocks share one, wider rows make longer reads.
int64_t tile_for(int64_t out) { return out <= 8192 ? kNarrowTile : kWideTile; }

class NestedGemv final : public Gemv {
 public:
  static std::unique_ptr<Gemv> make(const QuantizedLinear& layer, Stream stream) {
    const NestedShape shape = shape_of(layer);
    const int64_t tile = tile_for(shape.out);
    const bool by_input = shape.axis == GroupAxis::input;
    const int64_t part = by_input ? input_part(shape) : output_part(shape, tile);
    constexpr int64_t kLargest = int64_t{1} << 31;
    if (shape.table_levels > 0 || shape.planes() == 0 || part == 0 || shape.in * tile >= kLargest ||
        (shape.in + 31) / 32 * ((shape.out + tile - 1) / tile) >= kLargest)
      return nullptr;
    return std::unique_ptr<Gemv>(new NestedGemv(layer, shape, tile, part, stream));
  }

  int64_t bytes() const override {
    return digits_.size() + grids_.size() + partials_.size() + arrivals_.size();
  }
  int64_t bytes_read(const LevelCounts& counts) const override {
    int64_t bytes = 0;
    for (size_t level = 1; level <= 8; ++level) {
      const int64_t channels = counts.channels[level];
      const int64_t row = static_cast<int64_t>(level) * ((out() + 7) / 8);
      bytes += channels * (row + (weights_.by_input ? 0 : layout_groups_ * kGrid));
    }
    return bytes + (weights_.by_input ? layout_groups_ * out() * kGrid : 0);
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

  void run(ConstView x, const GemvReading& reading, View y, Stream stream) override {
    check(x.cols == in() && y.cols == out() && x.rows == y.rows && x.rows <= kMaxGemvTokens,
          "nested gemv: shapes");
    if (x.rows == 0) return;
    NestedGemvCall call{x, y, 0, {}};
    if (reading.grading != nullptr) {
      check(reading.grading->budget < 0 && reading.grading->count > 0, "nested gemv: a rule without budget");
      call.rule = *reading.grading;
      for (int i = 0; i < call.rule.count; ++i) check_level(call.rule.levels[i]);
    } else {
      call.level = reading.level == kFullLevel ? levels_.back() : reading.level;
      check_level(call.level);
    }
    nested_gemv(weights_, call, {partials_.as<float>(), arrivals_.as<int32_t>()}, processors_, stream);
  }

 private:
  static constexpr int64_t kGrid = 4;  // bytes

  NestedGemv(const QuantizedLinear& layer, const NestedShape& shape, int64_t tile, int64_t part,
             Stream stream)
      : Gemv(shape.out, shape.in), levels_(shape.levels), layout_groups_(shape.groups()) {
    weights_.out = static_cast<int32_t>(shape.out);
    weights_.in = static_cast<int32_t>(shape.in);
    weights_.tile = static_cast<int32_t>(tile);
    weights_.tiles = static_cast<int32_t>((shape.out + tile - 1) / tile);
    int64_t tile_bytes = 0;
    weights_.planes = planes_of(shape, tile, tile_bytes);
    weights_.tile_bytes = static_cast<int32_t>(tile_bytes);
    weights_.by_input = shape.axis == GroupAxis::input;
    weights_.part = static_cast<int32_t>(part);
    weights_.group = static_cast<int32_t>(weights_.by_input ? std::max(shape.group_size(), part) : 0);
    weights_.groups = static_cast<int32_t>(weights_.by_input ? shape.groups() : tile / part);
    allocate(stream);
    const LayerBuffers buffers(layer, stream);
    pack_nested_digits(buffers.get<uint8_t>("planes"), weights_, digits_.as<uint8_t>(), stream);
    pack_nested_grids(buffers.get<uint16_t>("scales"), buffers.get<uint16_t>("minima"), weights_,
                      shape.group_size(), shape.groups(), grids_.as<uint32_t>(), stream);
    check_call(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  }
  NestedGemv(const NestedGemv& other, Stream stream)
      : Gemv(other.out(), other.in()),
        levels_(other.levels_),
        layout_groups_(other.layout_groups_),
        weights_(other.weights_) {
    allocate(stream);
  }

  void allocate(Stream stream) {
    int device = 0;
    check_call(cudaGetDevice(&device), "cudaGetDevice");
    check_call(cudaDeviceGetAttribute(&processors_, cudaDevAttrMultiProcessorCount, device),
               "cudaDeviceGetAttribute");
    const int64_t grids =
        weights_.by_input ? int64_t{weights_.groups} * weights_.tile : int64_t{weights_.in} * weights_.groups;
    digits_ = Bytes(int64_t{weights_.tiles} * weights_.tile_bytes, stream);
    grids_ = Bytes(weights_.tiles * grids * kGrid, stream);
    partials_ =
        Bytes(nested_gemv_partials(weights_, processors_) * static_cast<int64_t>(sizeof(float)), stream);
    arrivals_ = Bytes(weights_.tiles * static_cast<int64_t>(sizeof(int32_t)), stream);
    fill_zero(arrivals_.data(), arrivals_.size(), stream);
    weights_.digits = digits_.as<uint8_t>();
    weights_.grids = grids_.as<uint32_t>();
  }

  void check_level(int level) const {
    check(level == 0 || std::ranges::count(levels_, level) > 0, "nested gemv: a level that the layer does not store");
  }

  std::vector<Level> levels_;
  int64_t layout_groups_;
  NestedGemvWeights weights_;
  Bytes digits_, grids_, partials_, arrivals_;
  int processors_ = 0;
};

const RegisterGemv registered{"nested", "rows",
                              "rows of digits on integer tensor cores; unread rows are not fetched",
                              NestedGemv::make};

}  // namespace

}  // namespace grinqh::cuda
