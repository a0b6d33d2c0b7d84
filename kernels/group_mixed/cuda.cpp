#include "kernels/group_mixed/cuda.h"

#include "cuda/device_weights.h"
#include "cuda/layer_buffers.h"
#include "kernels/group_mixed/fields.h"

namespace grinqh::cuda {

namespace {

std::vector<MixedGroup> places_of(const GroupMixedFields& fields) {
  std::vector<MixedGroup> places;
  for (int64_t g = 0; g < fields.shape.groups(); ++g) {
    const GroupMixedFields::Place& place = fields.places[static_cast<size_t>(g)];
    const int width = fields.width(g);
    places.push_back({place.code_bit, static_cast<int32_t>(width == 1 ? place.mean : place.zero_bit), width});
  }
  return places;
}

class GroupMixedOnDevice final : public DeviceWeights {
 public:
  GroupMixedOnDevice(const QuantizedLinear& layer, Stream stream)
      : DeviceWeights(layer.out(), layer.in()), buffers_(layer, stream) {
    const GroupMixedFields fields(layer);
    const GroupMixedShape& shape = fields.shape;
    buffers_.add("places", places_of(fields), stream);
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
