#include "kernels/dense/cuda.h"

#include "core/dtype.h"
#include "cuda/device_weights.h"
#include "cuda/layer_buffers.h"

namespace grinqh::cuda {

namespace {

class DenseOnDevice final : public DeviceWeights {
 public:
  DenseOnDevice(const QuantizedLinear& layer, Stream stream)
      : DeviceWeights(layer.out(), layer.in()),
        buffers_(layer, stream),
        bf16_(layer.attributes().at("dtype") == to_string(DType::bf16)) {}

  int64_t bytes() const override { return buffers_.bytes(); }

 private:
  void decode(Level, Level, View out, Stream stream) const override {
    dequantize_dense(buffers_.get<uint16_t>("weights"), bf16_, out, stream);  // there is one level above 0
  }

  LayerBuffers buffers_;
  bool bf16_;
};

const RegisterUpload upload{"dense16", [](const QuantizedLinear& layer, Stream stream) {
                              return std::make_unique<DenseOnDevice>(layer, stream);
                            }};

}  // namespace

}  // namespace grinqh::cuda
