#include "kernels/nested/cuda.h"

#include "cuda/device_weights.h"
#include "cuda/layer_buffers.h"
#include "kernels/nested/layout.h"

namespace grinqh::cuda {

namespace {

class NestedOnDevice final : public DeviceWeights {
 public:
  NestedOnDevice(const QuantizedLinear& layer, Stream stream)
      : DeviceWeights(layer.out(), layer.in()), buffers_(layer, stream) {
    const NestedShape shape = NestedShape::of(layer.attributes());
    weights_.planes = buffers_.get<uint8_t>("planes");
    weights_.scales = buffers_.get<uint16_t>("scales");
    weights_.minima = buffers_.get<uint16_t>("minima");
    weights_.table = buffers_.get<uint16_t>("table");
    weights_.out = shape.out;
    weights_.in = shape.in;
    weights_.group = shape.group_size();
    weights_.groups = shape.groups();
    weights_.by_input = shape.axis == GroupAxis::input;
    weights_.table_levels = shape.table_levels;
  }

  int64_t bytes() const override { return buffers_.bytes(); }

 private:
  void decode(Level level, Level minus, View out, Stream stream) const override {
    dequantize_nested(weights_, level, minus, out, stream);
  }

  LayerBuffers buffers_;
  NestedWeights weights_;
};

const RegisterUpload upload{"nested", [](const QuantizedLinear& layer, Stream stream) {
                              return std::make_unique<NestedOnDevice>(layer, stream);
                            }};

}  // namespace

}  // namespace grinqh::cuda
