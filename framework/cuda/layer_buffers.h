// Copies of a layer's buffers in device memory, by name.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cuda/memory.h"
#include "quant/quantized_linear.h"

namespace grinqh::cuda {

class LayerBuffers {
 public:
  // Zero bytes after every buffer, so that a kernel may read whole words around its last byte.
  static constexpr int64_t kPadding = 16;

  LayerBuffers(const QuantizedLinear& layer, Stream stream);

  void add(std::string_view name, std::span<const std::byte> bytes, Stream stream);
  template <class T>
  void add(std::string_view name, const std::vector<T>& values, Stream stream) {
    add(name, std::as_bytes(std::span(values)), stream);
  }
  // At a multiple of 256 bytes; null if there is none of this name.
  template <class T>
  const T* get(std::string_view name) const {
    const auto found = buffers_.find(name);
    return found == buffers_.end() ? nullptr : found->second.template as<const T>();
  }
  int64_t bytes() const;

 private:
  std::map<std::string, Bytes, std::less<>> buffers_;
};

}  // namespace grinqh::cuda
