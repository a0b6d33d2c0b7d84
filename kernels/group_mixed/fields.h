// Codes, scales, zero points and means of a layer, as its buffers hold them: what kernels repack from.
#pragma once

#include <cstring>

#include "kernels/group_mixed/layout.h"

namespace grinqh {

// Of a layer that must outlive it.
struct GroupMixedFields {
  GroupMixedShape shape;
  const uint8_t *codes = nullptr, *scales = nullptr, *zeros = nullptr, *means = nullptr;
  // Where a group's parts lie in every row: bits of its first code and of its zero point; groups of one bit
  // before it.
  struct Place {
    int64_t code_bit, zero_bit, mean;
  };
  std::vector<Place> places;

  explicit GroupMixedFields(const QuantizedLinear& layer)
      : shape{layer.out(), layer.in(), layer.attributes().at("group"), {}} {
    for (const NamedBuffer& buffer : layer.buffers()) {
      const auto* bytes = reinterpret_cast<const uint8_t*>(buffer.bytes.data());
      if (buffer.name == "widths") shape.widths.assign(bytes, bytes + buffer.bytes.size());
      if (buffer.name == "codes") codes = bytes;
      if (buffer.name == "scales") scales = bytes;
      if (buffer.name == "zeros") zeros = bytes;
      if (buffer.name == "means") means = bytes;
    }
    Place next{};
    for (int64_t g = 0; g < shape.groups(); ++g) {
      places.push_back(next);
      next.code_bit += width(g) * (shape.end_of(g) - shape.begin_of(g));
      next.zero_bit += width(g) > 1 ? width(g) : 0;
      next.mean += width(g) == 1;
    }
  }

  int width(int64_t g) const { return shape.widths[static_cast<size_t>(g)]; }
  // Of input i of group g, counted from its first.
  uint32_t code(int64_t row, int64_t g, int64_t i) const {
    return field(codes + row * ((shape.code_row_bits() + 7) / 8), place(g).code_bit + i * width(g), width(g));
  }
  uint16_t scale(int64_t row, int64_t g) const { return half_at(scales, row * shape.groups() + g); }
  // Of a group wider than one bit.
  uint32_t zero(int64_t row, int64_t g) const {
    return field(zeros + row * ((shape.zero_row_bits() + 7) / 8), place(g).zero_bit, width(g));
  }
  // Of a group of one bit.
  uint16_t mean(int64_t row, int64_t g) const {
    return half_at(means, row * shape.binary_groups() + place(g).mean);
  }

 private:
  const Place& place(int64_t g) const { return places[static_cast<size_t>(g)]; }
  static uint32_t field(const uint8_t* row, int64_t bit, int bits) {
    uint32_t window = row[bit / 8];
    if (bit % 8 + bits > 8) window |= static_cast<uint32_t>(row[bit / 8 + 1]) << 8;
    return window >> bit % 8 & ((1u << bits) - 1);
  }
  static uint16_t half_at(const uint8_t* halves, int64_t index) {
    uint16_t value;
    std::memcpy(&value, halves + index * 2, 2);
    return value;
  }
};

}  // namespace grinqh
