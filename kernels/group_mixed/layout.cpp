#include "kernels/group_mixed/layout.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "core/dtype.h"
#include "core/error.h"

namespace grinqh {

namespace {

size_t index(int64_t i) { return static_cast<size_t>(i); }

// Values of changing width, one after another, the lowest bit first.
class BitWriter {
 public:
  explicit BitWriter(uint8_t* to) : to_(to) {}
  void put(uint8_t value, int bits) {
    window_ |= static_cast<uint32_t>(value) << filled_;
    for (filled_ += bits; filled_ >= 8; filled_ -= 8, window_ >>= 8) *to_++ = static_cast<uint8_t>(window_);
  }
  void finish() {
    if (filled_ > 0) *to_ = static_cast<uint8_t>(window_);
  }

 private:
  uint8_t* to_;
  uint32_t window_ = 0;
  int filled_ = 0;
};

class BitReader {
 public:
  explicit BitReader(const uint8_t* from) : from_(from) {}
  int get(int bits) {
    if (filled_ < bits) {
      window_ |= static_cast<uint32_t>(*from_++) << filled_;
      filled_ += 8;
    }
    const auto value = static_cast<int>(window_ & ((1u << bits) - 1));
    window_ >>= bits;
    filled_ -= bits;
    return value;
  }

 private:
  const uint8_t* from_;
  uint32_t window_ = 0;
  int filled_ = 0;
};

template <class T>
std::vector<T> values_of(const Buffers& buffers, const std::string& name, int64_t count) {
  const auto it = buffers.find(name);
  if (it == buffers.end() || it->second.size() != index(count) * sizeof(T))
    bad_input("group_mixed layer: buffer '{}' is missing or not of {} bytes", name, index(count) * sizeof(T));
  std::vector<T> values(index(count));
  if (count > 0) std::memcpy(values.data(), it->second.data(), index(count) * sizeof(T));
  return values;
}

Level widest(const GroupMixedShape& shape) { return std::ranges::max(shape.widths); }

}  // namespace

int64_t GroupMixedShape::group_size() const { return std::min(group, in); }
int64_t GroupMixedShape::groups() const { return (in + group_size() - 1) / group_size(); }
int64_t GroupMixedShape::end_of(int64_t g) const { return std::min(begin_of(g) + group_size(), in); }

int64_t GroupMixedShape::code_row_bits() const {
  int64_t sum = 0;
  for (int64_t g = 0; g < groups(); ++g) sum += widths[index(g)] * (end_of(g) - begin_of(g));
  return sum;
}

int64_t GroupMixedShape::zero_row_bits() const {
  return std::accumulate(widths.begin(), widths.end(), int64_t{0}) - binary_groups();
}

int64_t GroupMixedShape::binary_groups() const { return std::ranges::count(widths, 1); }

GroupMixedParts::GroupMixedParts(const GroupMixedShape& shape)
    : codes(shape.out, shape.in),
      scales(shape.out, shape.groups()),
      zeros(shape.out, shape.groups()),
      means(shape.out, shape.groups()) {}

GroupMixedRow::GroupMixedRow(const GroupMixedShape& shape)
    : codes(index(shape.in)),
      zeros(index(shape.groups())),
      scales(index(shape.groups())),
      means(index(shape.groups())) {}

GroupMixedLinear::GroupMixedLinear(GroupMixedShape shape, const GroupMixedParts& parts)
    : shape_(std::move(shape)),
      level_(widest(shape_)),
      codes_(index(shape_.out * code_row_bytes())),
      zeros_(index(shape_.out * zero_row_bytes())) {
  check(std::ssize(shape_.widths) == shape_.groups() && parts.codes.rows() == shape_.out &&
            parts.codes.cols() == shape_.in,
        "group_mixed: sizes");
  for (int64_t row = 0; row < shape_.out; ++row) {
    BitWriter codes(codes_.data() + row * code_row_bytes()), zeros(zeros_.data() + row * zero_row_bytes());
    for (int64_t g = 0; g < shape_.groups(); ++g) {
      const int bits = shape_.widths[index(g)];
      for (int64_t i = shape_.begin_of(g); i < shape_.end_of(g); ++i)
        codes.put(parts.codes.row(row)[i], bits);
      scales_.push_back(parts.scales.row(row)[g]);
      if (bits > 1)
        zeros.put(parts.zeros.row(row)[g], bits);
      else
        means_.push_back(parts.means.row(row)[g]);
    }
    codes.finish();
    zeros.finish();
  }
}

std::vector<NamedBuffer> GroupMixedLinear::buffers() const {
  const auto bytes = [](const auto& values) { return std::as_bytes(std::span(values)); };
  return {{"widths", Role::index, bytes(shape_.widths)},
          {"codes", Role::codes, bytes(codes_)},
          {"scales", Role::scales, bytes(scales_)},
          {"zeros", Role::zeros, bytes(zeros_)},
          {"means", Role::zeros, bytes(means_)}};
}

Json GroupMixedLinear::attributes() const {
  std::vector<int> widths(shape_.widths.begin(), shape_.widths.end());
  std::ranges::sort(widths);
  widths.erase(std::ranges::unique(widths).begin(), widths.end());
  return {{"out", shape_.out}, {"in", shape_.in}, {"group", shape_.group}, {"widths", widths}};
}

std::unique_ptr<QuantizedLinear> GroupMixedLinear::rebuild(const Buffers& buffers, const Json& attributes) {
  auto layer = std::unique_ptr<GroupMixedLinear>(new GroupMixedLinear());
  GroupMixedShape& shape = layer->shape_;
  shape.out = attributes.at("out");
  shape.in = attributes.at("in");
  shape.group = attributes.at("group");
  shape.widths = values_of<uint8_t>(buffers, "widths", shape.groups());
  for (const uint8_t width : shape.widths)
    if (width < 1 || width > 8)
      bad_input("group_mixed layer: buffer 'widths' holds {}; allowed are 1 to 8", int{width});
  layer->level_ = widest(shape);
  layer->codes_ = values_of<uint8_t>(buffers, "codes", shape.out * layer->code_row_bytes());
  layer->scales_ = values_of<uint16_t>(buffers, "scales", shape.out * shape.groups());
  layer->zeros_ = values_of<uint8_t>(buffers, "zeros", shape.out * layer->zero_row_bytes());
  layer->means_ = values_of<uint16_t>(buffers, "means", shape.out * shape.binary_groups());
  return layer;
}

BitCount GroupMixedLinear::read_bits(const LevelCounts&) const {
  BitCount bits = stored_bits();  // there is one level, and it reads everything
  const int64_t codes = shape_.out * shape_.code_row_bits();
  bits[Role::padding] += bits[Role::codes] - codes;
  bits[Role::codes] = codes;
  return bits;
}

void GroupMixedLinear::read_row(int64_t row, GroupMixedRow& to) const {
  BitReader codes(codes_.data() + row * code_row_bytes()), zeros(zeros_.data() + row * zero_row_bytes());
  const uint16_t* mean = means_.data() + row * shape_.binary_groups();
  for (int64_t g = 0; g < shape_.groups(); ++g) {
    const int bits = shape_.widths[index(g)];
    to.scales[index(g)] = scales_[index(row * shape_.groups() + g)];
    if (bits == 1)
      to.means[index(g)] = *mean++;
    else
      to.zeros[index(g)] = static_cast<uint8_t>(zeros.get(bits));
    for (int64_t i = shape_.begin_of(g); i < shape_.end_of(g); ++i)
      to.codes[index(i)] = static_cast<uint8_t>(codes.get(bits));
  }
}

void GroupMixedLinear::dequantize_rows(std::span<const Level>, int64_t begin, int64_t end,
                                       Matrix<float> w) const {
  GroupMixedRow fields(shape_);
  for (int64_t row = begin; row < end; ++row) {
    read_row(row, fields);
    float* to = w.row(row - begin);
    for (int64_t g = 0; g < shape_.groups(); ++g) {
      const bool binary = shape_.widths[index(g)] == 1;
      const float scale = from_half(fields.scales[index(g)]), mean = from_half(fields.means[index(g)]);
      const int zero = fields.zeros[index(g)];
      for (int64_t i = shape_.begin_of(g); i < shape_.end_of(g); ++i) {
        const int code = fields.codes[index(i)];
        to[i] = binary ? mean + scale * static_cast<float>(2 * code - 1)
                       : scale * static_cast<float>(code - zero);
      }
    }
  }
}

namespace {
const RegisterLayout layout{"group_mixed",
                            "codes of 1..8 bits, a width, scale and zero point a group of inputs",
                            GroupMixedLinear::rebuild};
}

}  // namespace grinqh
