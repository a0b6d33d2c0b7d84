#include "cuda/layer_buffers.h"

namespace grinqh::cuda {

LayerBuffers::LayerBuffers(const QuantizedLinear& layer, Stream stream) {
  for (const NamedBuffer& buffer : layer.buffers()) add(buffer.name, buffer.bytes, stream);
}

void LayerBuffers::add(std::string_view name, std::span<const std::byte> bytes, Stream stream) {
  const auto size = static_cast<int64_t>(bytes.size());
  Bytes copy(size + kPadding, stream);
  fill_zero(copy.as<char>() + size, kPadding, stream);
  if (size > 0) to_device(bytes.data(), copy.data(), size, stream);
  buffers_.insert_or_assign(std::string(name), std::move(copy));
}

int64_t LayerBuffers::bytes() const {
  int64_t sum = 0;
  for (const auto& [name, buffer] : buffers_) sum += buffer.size();
  return sum;
}

}  // namespace grinqh::cuda
