#include "kernels/group_affine/cuda.h"

#include "cuda/device_weights.h"
#include "cuda/layer_buffers.h"
#include "kernels/group_affine/layout.h"

namespace grinqh::cuda {

namespace {

class GroupAffineOnDevice final : public DeviceWeights {
 public:
  GroupAffineOnDevice(const QuantizedLinear& layer, Stream stream)
      : DeviceWeights(layer.out(), layer.in()), buffers_(layer, stream) {
    const GroupAffineShape shape = GroupAffineShape::of(layer.attributes());
    weights_.codes = buffers_.get<uint8_t>("codes");
    weights_.scales = buffers_.get<uint16_t>("scales");
    weights_.zeros = buffers_.get<uint8_t>("zeros");
    weights_.column_scales = buffers_.get<uint16_t>("column_scales");
    weights_.out = shape.out;
    weights_.in = shape.in;
    weights_.group = shape.group_size();
    weights_.groups = shape.groups();
    weights_.code_row_bytes = shape.code_row_bytes();
    weights_.zero_row_bytes = shape.zero_row_bytes();
    weights_.bits = shape.bits;
    weights_.real_zeros = shape.real_zeros;
  }

  int64_t bytes() const override { return buffers_.bytes(); }

 private:
  void decode(Level, Level, View out, Stream stream) const override {
    dequantize_group_affine(weights_, out, stream);  // there is one level above 0
  }

  LayerBuffers buffers_;
  GroupAffineWeights weights_;
};

const RegisterUpload upload{"group_affine", [](const QuantizedLinear& layer, Stream stream) {
                              return std::make_unique<GroupAffineOnDevice>(layer, stream);
                            }};

}  // namespace

}  // namespace grinqh::cuda
