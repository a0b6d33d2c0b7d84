#include "kernels/group_affine/layout.h"

#include <algorithm>
#include <cstring>

#include "core/dtype.h"
#include "core/error.h"
#include "core/parallel.h"

namespace grinqh {

namespace {

void pack_row(const uint8_t* values, int64_t count, int bits, uint8_t* to) {
  // Eight codes fill as many bytes as they have bits.
  int64_t first = 0;
  for (; first + 8 <= count; first += 8, to += bits) {
    uint64_t eight = 0;
    for (int i = 0; i < 8; ++i) eight |= static_cast<uint64_t>(values[first + i]) << (i * bits);
    for (int byte = 0; byte < bits; ++byte) to[byte] = static_cast<uint8_t>(eight >> (8 * byte));
  }
  uint32_t window = 0;
  int filled = 0;
  for (int64_t i = first; i < count; ++i) {
    window |= static_cast<uint32_t>(values[i]) << filled;
    for (filled += bits; filled >= 8; filled -= 8, window >>= 8) *to++ = static_cast<uint8_t>(window);
  }
  if (filled > 0) *to = static_cast<uint8_t>(window);
}

void unpack_row(const uint8_t* from, int64_t count, int bits, uint8_t* values) {
  const uint32_t mask = (1u << bits) - 1;
  uint32_t window = 0;
  int filled = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (filled < bits) {
      window |= static_cast<uint32_t>(*from++) << filled;
      filled += 8;
    }
    values[i] = static_cast<uint8_t>(window & mask);
    window >>= bits;
    filled -= bits;
  }
}

template <class T, class Values = std::vector<T>>
Values values_of(const Buffers& buffers, const std::string& name, size_t count) {
  const auto it = buffers.find(name);
  if (it == buffers.end() || it->second.size() != count * sizeof(T))
    bad_input("group_affine layer: buffer '{}' is missing or not of {} bytes", name, count * sizeof(T));
  Values values(count);
  std::memcpy(values.data(), it->second.data(), count * sizeof(T));
  return values;
}

}  // namespace

GroupAffineShape GroupAffineShape::of(const Json& attributes) {
  GroupAffineShape shape;
  shape.out = attributes.at("out");
  shape.in = attributes.at("in");
  shape.bits = attributes.at("bits");
  shape.group = attributes.at("group");
  shape.symmetric = attributes.at("symmetric");
  shape.real_zeros = attributes.at("real_zeros");
  shape.column_scales = attributes.at("column_scales");
  return shape;
}

int64_t GroupAffineShape::group_size() const { return group == 0 ? in : std::min(group, in); }

int64_t GroupAffineShape::groups() const { return (in + group_size() - 1) / group_size(); }

std::span<const float> GroupAffineShape::group_of(std::span<const float> row, int64_t g) const {
  const int64_t begin = g * group_size();
  return row.subspan(static_cast<size_t>(begin), static_cast<size_t>(std::min(group_size(), in - begin)));
}

std::unique_ptr<GroupAffineLinear> make_group_affine(const GroupAffineShape& shape,
                                                     Matrix<const uint8_t> codes,
                                                     Matrix<const AffineGrid> grids,
                                                     std::span<const uint16_t> column_scales) {
  MatrixBuffer<uint16_t> scales(shape.out, shape.groups());
  MatrixBuffer<uint8_t> zeros(shape.out, shape.groups());
  parallel_for(shape.out, [&](int64_t row) {
    for (int64_t g = 0; g < shape.groups(); ++g) {
      scales.row(row)[g] = grids(row, g).scale;
      zeros.row(row)[g] = grids(row, g).zero;
    }
  });
  return std::make_unique<GroupAffineLinear>(shape, codes, scales, zeros.view(), column_scales);
}

GroupAffineLinear::GroupAffineLinear(const GroupAffineShape& shape, Matrix<const uint8_t> codes,
                                     Matrix<const uint16_t> scales, std::span<const uint16_t> column_scales)
    : shape_(shape),
      levels_{0, static_cast<Level>(shape.bits)},
      codes_(static_cast<size_t>(shape.out * shape.code_row_bytes())),
      zeros_(static_cast<size_t>(shape.out * shape.zero_row_bytes())),
      column_scales_(column_scales.begin(), column_scales.end()) {
  check(codes.rows == shape_.out && codes.cols == shape_.in && scales.rows == shape_.out &&
            scales.cols == shape_.groups(),
        "group_affine: buffer sizes");
  check(!(shape_.symmetric && shape_.real_zeros), "group_affine: a symmetric layer has no zero points");
  check(static_cast<int64_t>(column_scales.size()) == (shape_.column_scales ? shape_.in : 0),
        "group_affine: a scale for every column or for none");
  scales_.resize(static_cast<size_t>(shape_.out * shape_.groups()));
  parallel_for(shape_.out, [&](int64_t row) {
    pack_row(codes.row(row), shape_.in, shape_.bits, codes_.data() + row * shape_.code_row_bytes());
    std::copy_n(scales.row(row), shape_.groups(), scales_.data() + row * shape_.groups());
  });
}

GroupAffineLinear::GroupAffineLinear(GroupAffineShape shape, Matrix<const uint8_t> codes,
                                     Matrix<const uint16_t> scales, Matrix<const uint8_t> zeros,
                                     std::span<const uint16_t> column_scales)
    : GroupAffineLinear(shape, codes, scales, column_scales) {
  check(!shape_.real_zeros, "group_affine: this shape has real zero points");
  if (shape_.symmetric) return;
  check(zeros.rows == shape_.out && zeros.cols == shape_.groups(), "group_affine: a zero point a group");
  for (int64_t row = 0; row < shape_.out; ++row)
    pack_row(zeros.row(row), shape_.groups(), shape_.bits, zeros_.data() + row * shape_.zero_row_bytes());
}

GroupAffineLinear::GroupAffineLinear(GroupAffineShape shape, Matrix<const uint8_t> codes,
                                     Matrix<const uint16_t> scales, Matrix<const uint16_t> zeros,
                                     std::span<const uint16_t> column_scales)
    : GroupAffineLinear(shape, codes, scales, column_scales) {
  check(shape_.real_zeros, "group_affine: this shape has integer zero points");
  check(zeros.rows == shape_.out && zeros.cols == shape_.groups(), "group_affine: a zero point a group");
  for (int64_t row = 0; row < shape_.out; ++row)
    std::memcpy(zeros_.data() + row * shape_.zero_row_bytes(), zeros.row(row),
                static_cast<size_t>(shape_.zero_row_bytes()));
}

std::span<const Level> GroupAffineLinear::levels() const {
  return std::span<const Level>(levels_).subspan(shape_.bits == 8 ? 0 : 1);
}

std::vector<NamedBuffer> GroupAffineLinear::buffers() const {
  std::vector<NamedBuffer> all{{"codes", Role::codes, std::as_bytes(std::span(codes_))},
                               {"scales", Role::scales, std::as_bytes(std::span(scales_))}};
  if (!shape_.symmetric) all.push_back({"zeros", Role::zeros, std::as_bytes(std::span(zeros_))});
  if (shape_.column_scales)
    all.push_back({"column_scales", Role::scales, std::as_bytes(std::span(column_scales_))});
  return all;
}

Json GroupAffineLinear::attributes() const {
  return {{"out", shape_.out},
          {"in", shape_.in},
          {"bits", shape_.bits},
          {"group", shape_.group},
          {"symmetric", shape_.symmetric},
          {"real_zeros", shape_.real_zeros},
          {"column_scales", shape_.column_scales}};
}

std::unique_ptr<QuantizedLinear> GroupAffineLinear::rebuild(const Buffers& buffers, const Json& attributes) {
  auto layer = std::unique_ptr<GroupAffineLinear>(new GroupAffineLinear());
  layer->shape_ = GroupAffineShape::of(attributes);
  const GroupAffineShape& shape = layer->shape_;
  layer->levels_[1] = static_cast<Level>(shape.bits);
  layer->codes_ = values_of<uint8_t, PlainVector<uint8_t>>(
      buffers, "codes", static_cast<size_t>(shape.out * shape.code_row_bytes()));
  layer->scales_ = values_of<uint16_t>(buffers, "scales", static_cast<size_t>(shape.out * shape.groups()));
  if (!shape.symmetric)
    layer->zeros_ =
        values_of<uint8_t>(buffers, "zeros", static_cast<size_t>(shape.out * shape.zero_row_bytes()));
  if (shape.column_scales)
    layer->column_scales_ = values_of<uint16_t>(buffers, "column_scales", static_cast<size_t>(shape.in));
  return layer;
}

BitCount GroupAffineLinear::read_bits(const LevelCounts& counts) const {
  BitCount bits;
  const int64_t channels = levels().size() == 1 ? shape_.in : counts.channels[levels_[1]];
  bits[Role::codes] = shape_.out * channels * shape_.bits;
  bits[Role::padding] = shape_.out * (shape_.code_row_bytes() * 8 - shape_.in * shape_.bits);
  // Scales of groups stand for many channels, so they are read whatever the levels.
  bits[Role::scales] = (static_cast<int64_t>(scales_.size()) + (shape_.column_scales ? channels : 0)) * 16;
  bits[Role::zeros] = static_cast<int64_t>(zeros_.size()) * 8;
  return bits;
}

void GroupAffineLinear::read_zeros(int64_t row, std::span<float> zeros) const {
  const uint8_t* from = zeros_.data() + row * shape_.zero_row_bytes();
  if (shape_.symmetric) {
    std::ranges::fill(zeros, static_cast<float>(1u << (shape_.bits - 1)));
  } else if (shape_.real_zeros) {
    std::vector<uint16_t> halves(zeros.size());
    std::memcpy(halves.data(), from, halves.size() * sizeof(uint16_t));
    std::ranges::transform(halves, zeros.begin(), from_half);
  } else {
    std::vector<uint8_t> integers(zeros.size());
    unpack_row(from, shape_.groups(), shape_.bits, integers.data());
    std::ranges::copy(integers, zeros.begin());
  }
}

void GroupAffineLinear::dequantize_rows(std::span<const Level> levels, int64_t begin, int64_t end,
                                        Matrix<float> w) const {
  const int64_t group = shape_.group_size();
  std::vector<uint8_t> codes(static_cast<size_t>(shape_.in));
  std::vector<float> zeros(static_cast<size_t>(shape_.groups())), columns(column_scales_.size());
  std::ranges::transform(column_scales_, columns.begin(), from_half);
  std::vector<int64_t> left_out;
  for (int64_t i = 0; i < shape_.in; ++i)
    if (levels[static_cast<size_t>(i)] == 0) left_out.push_back(i);
  for (int64_t row = begin; row < end; ++row) {
    unpack_row(codes_.data() + row * shape_.code_row_bytes(), shape_.in, shape_.bits, codes.data());
    read_zeros(row, zeros);
    float* to = w.row(row - begin);
    for (int64_t g = 0; g < shape_.groups(); ++g) {
      const float scale = from_half(scales_[static_cast<size_t>(row * shape_.groups() + g)]);
      const float zero = zeros[static_cast<size_t>(g)];
      for (int64_t i = g * group; i < std::min((g + 1) * group, shape_.in); ++i)
        to[i] = scale * (static_cast<float>(codes[static_cast<size_t>(i)]) - zero);
    }
    for (size_t i = 0; i < columns.size(); ++i) to[i] *= columns[i];
    for (const int64_t i : left_out) to[i] = 0.0f;
  }
}

namespace {
const RegisterLayout layout{"group_affine", "codes of 2..8 bits, scale and zero point a group of inputs",
                            GroupAffineLinear::rebuild};
}

}  // namespace grinqh
