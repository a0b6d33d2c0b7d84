#include "kernels/lut_planes/cuda.h"

#include "cuda/device_weights.h"
#include "cuda/layer_buffers.h"
#include "kernels/lut_planes/layout.h"

namespace grinqh::cuda {

namespace {

class LutPlanesOnDevice final : public DeviceWeights {
 public:
  LutPlanesOnDevice(const QuantizedLinear& layer, Stream stream)
      : DeviceWeights(layer.out(), layer.in()),
        buffers_(layer, stream),
        shape_{layer.out(), layer.in(), {layer.levels().begin(), layer.levels().end()}} {
    weights_.planes = buffers_.get<uint32_t>("planes");
    weights_.outlier_rows = buffers_.get<uint32_t>("outlier_rows");
    weights_.outlier_columns = buffers_.get<void>("outlier_columns");
    weights_.outlier_values = buffers_.get<uint16_t>("outlier_values");
    weights_.out = shape_.out;
    weights_.in = shape_.in;
    weights_.wide_columns = shape_.in > 65536;
  }

  int64_t bytes() const override { return buffers_.bytes(); }

 private:
  LutLevel at(Level level) const {
    return {level, buffers_.get<uint16_t>("tables") + shape_.table_offset(level)};
  }
  void decode(Level level, Level minus, View out, Stream stream) const override {
    dequantize_lut_planes(weights_, at(level), at(minus), out, stream);
  }

  LayerBuffers buffers_;
  LutPlanesShape shape_;
  LutPlanesWeights weights_;
};

const RegisterUpload upload{"lut_planes", [](const QuantizedLinear& layer, Stream stream) {
                              return std::make_unique<LutPlanesOnDevice>(layer, stream);
                            }};

}  // namespace

}  // namespace grinqh::cuda
