#include "kernels/nested/layout.h"

#include <algorithm>
#include <cstring>

#include "core/dtype.h"
#include "core/error.h"
#include "core/parallel.h"
#include "quant/bit_transpose.h"

namespace grinqh {

namespace {

// Rows that are decoded together: one 64-bit word of a plane.
constexpr int64_t kRows = 64;
// Channels that are decoded together, and packed by one task: rows are touched a cache line at a time.
constexpr int64_t kChannels = 16;
constexpr int64_t kPacked = 64;

template <class Values>
std::span<const std::byte> bytes_of(const Values& values) {
  return std::as_bytes(std::span(values));
}

template <class T, class Values = std::vector<T>>
Values values_of(const Buffers& buffers, const std::string& name) {
  const auto it = buffers.find(name);
  if (it == buffers.end()) bad_input("nested layer: buffer '{}' is missing", name);
  Values values(it->second.size() / sizeof(T));
  std::memcpy(values.data(), it->second.data(), values.size() * sizeof(T));
  return values;
}

}  // namespace

NestedShape NestedShape::of(const Json& attributes) {
  NestedShape shape;
  shape.out = attributes.at("out");
  shape.in = attributes.at("in");
  shape.group = attributes.at("group");
  shape.axis = attributes.at("axis") == "input" ? GroupAxis::input : GroupAxis::output;
  for (const int level : attributes.at("levels")) shape.levels.push_back(static_cast<Level>(level));
  shape.table_levels = attributes.at("table_levels");
  return shape;
}

int64_t NestedShape::group_size() const {
  const int64_t extent = axis == GroupAxis::input ? in : out;
  return group == 0 ? extent : std::min(group, extent);
}

int64_t NestedShape::groups() const {
  const int64_t extent = axis == GroupAxis::input ? in : out;
  return (extent + group_size() - 1) / group_size();
}

int64_t NestedShape::parameters() const { return groups() * (axis == GroupAxis::input ? out : in); }

int64_t NestedShape::parameter(int64_t row, int64_t channel) const {
  return axis == GroupAxis::input ? row * groups() + channel / group_size()
                                  : channel * groups() + row / group_size();
}

NestedLinear::NestedLinear(NestedShape shape, Matrix<const uint8_t> codes, std::vector<uint16_t> scales,
                           std::vector<uint16_t> minima, std::vector<uint16_t> table)
    : shape_(std::move(shape)),
      scales_(std::move(scales)),
      minima_(std::move(minima)),
      table_(std::move(table)) {
  const auto parameters = static_cast<size_t>(shape_.parameters());
  check(codes.rows == shape_.out && codes.cols == shape_.in && scales_.size() == parameters &&
            minima_.size() == parameters &&
            table_.size() == static_cast<size_t>(NestedShape::table_offset(shape_.table_levels + 1)),
        "nested: buffer sizes");
  planes_.resize(static_cast<size_t>(shape_.planes() * shape_.in * plane_bytes()));
  parallel_for((shape_.in + kPacked - 1) / kPacked, [&](int64_t task) {
    const int64_t begin = task * kPacked;
    pack_channels(codes, begin, std::min(begin + kPacked, shape_.in));
  });
}

void NestedLinear::pack_channels(Matrix<const uint8_t> codes, int64_t begin, int64_t end) {
  for (int64_t row = 0; row < shape_.out; row += kRows)
    for (int64_t channel = begin; channel < end; channel += 8)
      pack_tile(codes, row, channel, std::min<int64_t>(8, end - channel));
}

// kRows rows of up to 8 channels: a word of each channel's planes.
void NestedLinear::pack_tile(Matrix<const uint8_t> codes, int64_t row, int64_t channel, int64_t channels) {
  uint8_t words[8][8][kRows / 8] = {};  // [plane][channel][octet of rows]
  const int64_t rows = std::min(kRows, shape_.out - row);
  for (int64_t octet = 0; octet < (rows + 7) / 8; ++octet) {
    uint64_t matrix[8] = {};  // of a row, a byte a channel; then of a channel, a byte a row
    for (int64_t r = 0; r < std::min<int64_t>(8, rows - octet * 8); ++r)
      std::memcpy(&matrix[r], codes.row(row + octet * 8 + r) + channel, static_cast<size_t>(channels));
    transpose_bytes(matrix);
    for (size_t c = 0; c < 8; ++c) {
      const uint64_t planes = transpose_bits(matrix[c]);  // byte 7 - b is plane b
      for (size_t bit = 0; bit < 8; ++bit)
        words[bit][c][octet] = static_cast<uint8_t>(planes >> (8 * (7 - bit)));
    }
  }
  const auto bytes = static_cast<size_t>((rows + 7) / 8);
  for (int bit = 0; bit < shape_.planes(); ++bit)
    for (int64_t c = 0; c < channels; ++c)
      std::memcpy(planes_.data() + (bit * shape_.in + channel + c) * plane_bytes() + row / 8, words[bit][c],
                  bytes);
}

std::vector<NamedBuffer> NestedLinear::buffers() const {
  std::vector<NamedBuffer> all{{"planes", Role::codes, bytes_of(planes_)},
                               {"scales", Role::scales, bytes_of(scales_)},
                               {"minima", Role::zeros, bytes_of(minima_)}};
  if (!table_.empty()) all.push_back({"table", Role::codebook, bytes_of(table_)});
  return all;
}

Json NestedLinear::attributes() const {
  return {{"out", shape_.out},
          {"in", shape_.in},
          {"group", shape_.group},
          {"axis", shape_.axis == GroupAxis::input ? "input" : "output"},
          {"levels", std::vector<int>(shape_.levels.begin(), shape_.levels.end())},
          {"table_levels", shape_.table_levels}};
}

std::unique_ptr<QuantizedLinear> NestedLinear::rebuild(const Buffers& buffers, const Json& attributes) {
  auto layer = std::unique_ptr<NestedLinear>(new NestedLinear());
  const NestedShape& shape = layer->shape_ = NestedShape::of(attributes);
  layer->planes_ = values_of<uint8_t, PlainVector<uint8_t>>(buffers, "planes");
  layer->scales_ = values_of<uint16_t>(buffers, "scales");
  layer->minima_ = values_of<uint16_t>(buffers, "minima");
  if (shape.table_levels > 0) layer->table_ = values_of<uint16_t>(buffers, "table");
  const auto planes = static_cast<size_t>(shape.planes() * shape.in * layer->plane_bytes());
  const auto parameters = static_cast<size_t>(shape.parameters());
  const auto entries = static_cast<size_t>(NestedShape::table_offset(shape.table_levels + 1));
  if (layer->planes_.size() != planes || layer->scales_.size() != parameters ||
      layer->minima_.size() != parameters || layer->table_.size() != entries)
    bad_input("nested layer: buffers do not fit the attributes {}", attributes.dump());
  return layer;
}

BitCount NestedLinear::read_bits(const LevelCounts& counts) const {
  BitCount bits;
  int64_t channels_read = 0;
  for (int level = 1; level <= shape_.planes(); ++level) {
    const int64_t channels = counts.channels[static_cast<size_t>(level)];
    bits[Role::codes] += channels * level * shape_.out;
    bits[Role::padding] += channels * level * (plane_bytes() * 8 - shape_.out);
    channels_read += channels;
  }
  // Scales along the inputs stand for many channels, so they are read whatever the levels.
  const int64_t parameters =
      shape_.axis == GroupAxis::input ? shape_.parameters() : channels_read * shape_.groups();
  bits[Role::scales] = parameters * 16;
  bits[Role::zeros] = parameters * 16;
  bits[Role::codebook] = static_cast<int64_t>(table_.size()) * 16;
  return bits;
}

float NestedLinear::position(Level level, uint8_t code) const {
  const int prefix = code >> (8 - level);
  if (level <= shape_.table_levels)
    return from_half(table_[static_cast<size_t>(NestedShape::table_offset(level) + prefix)]);
  return (static_cast<float>(prefix) + 0.5f) * static_cast<float>(1 << (8 - level));
}

// Positions of rows [first_row, first_row + count) of a channel; first_row is a multiple of kRows.
void NestedLinear::decode_positions(Level level, int64_t channel, int64_t first_row, int64_t count,
                                    float* positions) const {
  uint8_t words[8][kRows / 8] = {};
  const int64_t first_byte = first_row / 8;
  const auto bytes = static_cast<size_t>(std::min(kRows / 8, plane_bytes() - first_byte));
  for (int bit = 0; bit < level; ++bit) std::memcpy(words[bit], plane(bit, channel) + first_byte, bytes);
  uint8_t codes[kRows];
  for (size_t byte = 0; byte < kRows / 8; ++byte) {
    uint64_t matrix = 0;
    for (int bit = 0; bit < level; ++bit)
      matrix |= static_cast<uint64_t>(words[bit][byte]) << (8 * (7 - bit));
    matrix = transpose_bits(matrix);
    std::memcpy(codes + 8 * byte, &matrix, 8);
  }
  if (level <= shape_.table_levels) {
    const uint16_t* entries = table_.data() + NestedShape::table_offset(level);
    for (int64_t r = 0; r < count; ++r) positions[r] = from_half(entries[codes[r] >> (8 - level)]);
  } else {
    const float middle = 0.5f * static_cast<float>(1 << (8 - level));
    for (int64_t r = 0; r < count; ++r) positions[r] = static_cast<float>(codes[r]) + middle;
  }
}

void NestedLinear::dequantize_rows(std::span<const Level> levels, int64_t begin, int64_t end,
                                   Matrix<float> w) const {
  float positions[kRows], scale[kRows], minimum[kRows], decoded[kChannels][kRows];
  for (int64_t first = begin / kRows * kRows; first < end; first += kRows) {
    const int64_t row0 = std::max(begin, first), row1 = std::min({end, first + kRows, shape_.out});
    int64_t loaded_group = -1;
    for (int64_t tile = 0; tile < shape_.in; tile += kChannels) {
      const int64_t channels = std::min(kChannels, shape_.in - tile);
      for (int64_t i = tile; i < tile + channels; ++i) {
        float* to = decoded[i - tile];
        const Level level = levels[static_cast<size_t>(i)];
        if (level == 0) {
          std::fill_n(to, kRows, 0.0f);
          continue;
        }
        const int64_t group = shape_.axis == GroupAxis::input ? i / shape_.group_size() : i;
        if (group != loaded_group) {
          load_grids(row0, row1, i, scale + (row0 - first), minimum + (row0 - first));
          loaded_group = group;
        }
        decode_positions(level, i, first, std::min(kRows, shape_.out - first), positions);
        for (int64_t r = row0 - first; r < row1 - first; ++r) to[r] = minimum[r] + scale[r] * positions[r];
      }
      for (int64_t row = row0; row < row1; ++row)
        for (int64_t c = 0; c < channels; ++c) w(row - begin, tile + c) = decoded[c][row - first];
    }
  }
}

void NestedLinear::load_grids(int64_t begin, int64_t end, int64_t channel, float* scale,
                              float* minimum) const {
  // Rows that share a grid, where groups lie along the outputs.
  const int64_t shared = shape_.axis == GroupAxis::output ? shape_.group_size() : 1;
  for (int64_t row = begin; row < end;) {
    const auto p = static_cast<size_t>(shape_.parameter(row, channel));
    const float row_scale = from_half(scales_[p]), row_minimum = from_half(minima_[p]);
    for (const int64_t next = std::min(end, (row / shared + 1) * shared); row < next; ++row) {
      scale[row - begin] = row_scale;
      minimum[row - begin] = row_minimum;
    }
  }
}

namespace {
const RegisterLayout layout{"nested", "bit planes, channel-major: any level 0..8 is a prefix",
                            NestedLinear::rebuild};
}

}  // namespace grinqh
