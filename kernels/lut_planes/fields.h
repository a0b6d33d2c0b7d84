// The buffers of a layer by name: what kernels repack from.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "kernels/lut_planes/layout.h"

namespace grinqh {

// Of a layer that must outlive it.
class LutPlanesFields {
 public:
  explicit LutPlanesFields(const QuantizedLinear& layer)
      : shape_{layer.out(), layer.in(), {layer.levels().begin(), layer.levels().end()}},
        buffers_(layer.buffers()) {}

  const LutPlanesShape& shape() const { return shape_; }
  // Empty if the layer has no such buffer.
  template <class T>
  std::span<const T> get(std::string_view name) const {
    for (const NamedBuffer& buffer : buffers_)
      if (buffer.name == name)
        return {reinterpret_cast<const T*>(buffer.bytes.data()), buffer.bytes.size() / sizeof(T)};
    return {};
  }
  uint32_t outlier_column(size_t outlier) const {
    return shape_.in > 65536 ? get<uint32_t>("outlier_columns")[outlier]
                             : get<uint16_t>("outlier_columns")[outlier];
  }
  // A row's words of a plane, [row_words()].
  const uint32_t* plane_row(int plane, int64_t row) const {
    return get<uint32_t>("planes").data() + (plane * shape_.out + row) * shape_.row_words();
  }
  // float16, [2^level].
  const uint16_t* table_row(Level level, int64_t row) const {
    return get<uint16_t>("tables").data() + shape_.table_offset(level) + (row << level);
  }
  // The codes that outliers stand in place of, as bytes with the first bit highest.
  std::vector<uint8_t> outlier_codes() const {
    const std::span<const uint32_t> rows = get<uint32_t>("outlier_rows");
    std::vector<uint8_t> codes(get<uint16_t>("outlier_values").size());
    for (int64_t row = 0; !rows.empty() && row < shape_.out; ++row)
      for (size_t k = rows[static_cast<size_t>(row)]; k < rows[static_cast<size_t>(row) + 1]; ++k)
        for (int plane = 0; plane < shape_.planes(); ++plane) {
          const uint32_t column = outlier_column(k), word = plane_row(plane, row)[column / 32];
          codes[k] |= static_cast<uint8_t>((word >> column % 32 & 1u) << (7 - plane));
        }
    return codes;
  }

 private:
  LutPlanesShape shape_;
  std::vector<NamedBuffer> buffers_;
};

}  // namespace grinqh
