// Codes, scales and zero points one by one, as a layer's buffers hold them: what kernels repack from.
#pragma once

#include <cstring>

#include "kernels/group_affine/layout.h"

namespace grinqh {

// Of a layer that must outlive it.
struct GroupAffineFields {
  GroupAffineShape shape;
  const uint8_t *codes = nullptr, *scales = nullptr, *zeros = nullptr, *column_scales = nullptr;

  explicit GroupAffineFields(const QuantizedLinear& layer) : shape(GroupAffineShape::of(layer.attributes())) {
    for (const NamedBuffer& buffer : layer.buffers()) {
      const auto* bytes = reinterpret_cast<const uint8_t*>(buffer.bytes.data());
      if (buffer.name == "codes") codes = bytes;
      if (buffer.name == "scales") scales = bytes;
      if (buffer.name == "zeros") zeros = bytes;
      if (buffer.name == "column_scales") column_scales = bytes;
    }
  }

  uint32_t field(const uint8_t* row, int64_t index) const {
    const int64_t bit = index * shape.bits, byte = bit / 8;
    uint32_t window = row[byte];
    if (bit % 8 + shape.bits > 8) window |= static_cast<uint32_t>(row[byte + 1]) << 8;
    return window >> bit % 8 & ((1u << shape.bits) - 1);
  }
  uint32_t code(int64_t row, int64_t i) const { return field(codes + row * shape.code_row_bytes(), i); }
  static uint16_t half_at(const uint8_t* halves, int64_t index) {
    uint16_t value;
    std::memcpy(&value, halves + index * 2, 2);
    return value;
  }
  uint16_t scale(int64_t row, int64_t g) const { return half_at(scales, row * shape.groups() + g); }
  uint16_t real_zero(int64_t row, int64_t g) const { return half_at(zeros, row * shape.groups() + g); }
  uint32_t integer_zero(int64_t row, int64_t g) const {
    return field(zeros + row * shape.zero_row_bytes(), g);
  }
};

}  // namespace grinqh
