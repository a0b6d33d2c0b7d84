#include "kernels/group_mixed/cuda.h"

#include "cuda/device_weights.h"
#include "cuda/layer_buffers.h"
#include "kernels/group_mixed/layout.h"

namespace grinqh::cuda {

namespace {

GroupMixedShape shape_of(const QuantizedLinear& layer) {
  GroupMixedShape shape{layer.out(), layer.in(), layer.attributes().at("group"), {}};
  for (const NamedBuffer& buffer : layer.buffers())
    if (buffer.name == "widths")
      for (const std::byte width : buffer.bytes) shape.widths.push_back(std::to_integer<uint8_t>(width));
  return shape;
}

std::vector<MixedGroup> places_of(const GroupMixedShape& shape) {
  std::vector<MixedGroup> places;
  int64_t code_bit = 0;
  int32_t zero_bit = 0, mean = 0;
  for (int64_t g = 0; g < shape.groups(); ++g) {
    const int32_t width = shape.widths[static_cast<size_t>(g)];
    places.push_back({code_bit, width == 1 ? mean++ : zero_bit, width});
    if (width > 1) zero_bit += width;
    code_bit += width * (shape.end_of(g) - shape.begin_of(g));
  }
  return places;
}

class GroupMixedOnDevice final : public DeviceWeights {
 public:
  GroupMixedOnDevice(const QuantizedLinear& layer, Stream stream)
      : DeviceWeights(layer.out(), layer.in()), buffers_(layer, stream) {
    const GroupMixedShape shape = shape_of(layer);
    buffers_.add("places", places_of(shape), stream);
    weights_.places = buffers_.get<MixedGroup>("places");
    weights_.codes = buffers_.get<uint8_t>("codes");
    weights_.scales = buffers_.get<uint16_t>("scales");
    weights_.zeros = buffers_.get<uint8_t>("zeros");
    weights_.means = buffers_.get<uint16_t>("means");
    weights_.out = shape.out;
    weights_.in = shape.in;
    weights_.group = shape.group_size();
    weights_.groups = shape.groups();
    weights_.code_row_bytes = (shape.code_row_bits() + 7) / 8;
    weights_.zero_row_bytes = (shape.zero_row_bits() + 7) / 8;
    weights_.binary_groups = shape.binary_groups();
  }

  int64_t bytes() const override { return buffers_.bytes(); }

 private:
  void decode(Level, Level, View out, Stream stream) const override {
    dequantize_group_mixed(weights_, out, stream);  // there is one level
  }

  LayerBuffers buffers_;
  GroupMixedWeights weights_;
};

const RegisterUpload upload{"group_mixed", [](const QuantizedLinear& layer, Stream stream) {
                              return std::make_unique<GroupMixedOnDevice>(layer, stream);
                            }};

}  // namespace

}  // namespace grinqh::cuda
