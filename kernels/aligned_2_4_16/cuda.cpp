#include "kernels/aligned_2_4_16/cuda.h"

#include <algorithm>
#include <cstring>

#include "cuda/device_weights.h"
#include "cuda/layer_buffers.h"
#include "kernels/aligned_2_4_16/layout.h"

namespace grinqh::cuda {

namespace {

std::span<const std::byte> bytes_of(const std::vector<NamedBuffer>& buffers, std::string_view name) {
  const auto found = std::ranges::find(buffers, name, &NamedBuffer::name);
  return found->bytes;
}

std::vector<int32_t> places_of(const Aligned2416Shape& shape) {
  std::vector<int32_t> places;
  for (const int64_t place : shape.places()) {
    const auto number = static_cast<int32_t>(place);
    places.push_back(shape.wide[places.size()] ? ~number : number);
  }
  return places;
}

std::vector<uint32_t> row_begins(std::span<const std::byte> counts) {
  std::vector<uint32_t> begins{0};
  for (size_t at = 0; at < counts.size(); at += sizeof(uint16_t)) {
    uint16_t count;
    std::memcpy(&count, counts.data() + at, sizeof count);
    begins.push_back(begins.back() + count);
  }
  return begins;
}

class Aligned2416OnDevice final : public DeviceWeights {
 public:
  Aligned2416OnDevice(const QuantizedLinear& layer, Stream stream)
      : DeviceWeights(layer.out(), layer.in()), buffers_(layer, stream) {
    const std::vector<NamedBuffer> buffers = layer.buffers();
    Aligned2416Shape shape{layer.out(), layer.in(), {}};
    const auto wide = bytes_of(buffers, "wide");
    for (int64_t g = 0; g < shape.groups(); ++g)
      shape.wide.push_back(std::to_integer<int>(wide[static_cast<size_t>(g / 8)]) >> (g % 8) & 1);
    buffers_.add("places", places_of(shape), stream);
    buffers_.add("outlier_rows", row_begins(bytes_of(buffers, "outlier_counts")), stream);
    weights_.places = buffers_.get<int32_t>("places");
    weights_.codes = buffers_.get<uint32_t>("codes");
    weights_.split = buffers_.get<uint32_t>("split");
    weights_.first = buffers_.get<uint16_t>("first");
    weights_.second_scales = buffers_.get<uint16_t>("second_scales");
    weights_.second_zeros = buffers_.get<uint16_t>("second_zeros");
    weights_.wide_scales = buffers_.get<uint16_t>("wide_scales");
    weights_.wide_zeros = buffers_.get<uint8_t>("wide_zeros");
    weights_.outlier_rows = buffers_.get<uint32_t>("outlier_rows");
    weights_.outlier_columns = buffers_.get<uint16_t>("outlier_columns");
    weights_.outlier_values = buffers_.get<uint16_t>("outlier_values");
    weights_.out = shape.out;
    weights_.in = shape.in;
    weights_.groups = shape.groups();
    weights_.narrow_groups = shape.narrow_groups();
    weights_.wide_groups = shape.wide_groups();
  }

  int64_t bytes() const override { return buffers_.bytes(); }

 private:
  void decode(Level, Level, View out, Stream stream) const override {
    dequantize_aligned_2_4_16(weights_, out, stream);  // there is one level
  }

  LayerBuffers buffers_;
  Aligned2416Weights weights_;
};

const RegisterUpload upload{"aligned_2_4_16", [](const QuantizedLinear& layer, Stream stream) {
                              return std::make_unique<Aligned2416OnDevice>(layer, stream);
                            }};

}  // namespace

}  // namespace grinqh::cuda
