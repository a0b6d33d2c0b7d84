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

 private:
  LutPlanesShape shape_;
  std::vector<NamedBuffer> buffers_;
};

}  // namespace grinqh
