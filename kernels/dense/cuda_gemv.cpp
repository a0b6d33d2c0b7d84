#include <cstring>

#include "core/dtype.h"
#include "cuda/channel_layer.h"
#include "kernels/dense/layout.h"

namespace grinqh::cuda {

namespace {

// One layer, whose channels the layout has as the kernel wants them.
std::unique_ptr<Gemv> make(GemvLayers layers, Stream stream) {
  if (layers.size() != 1) return nullptr;
  const QuantizedLinear& layer = *layers.front();
  ChannelWeights weights;
  weights.out = layer.out();
  weights.in = layer.in();
  weights.stride = channel_stride(layer.out());
  weights.element = layer.attributes().at("dtype") == to_string(DType::bf16) ? ChannelWeights::Element::bf16
                                                                             : ChannelWeights::Element::f16;
  ChannelBuffers buffers;
  buffers.data.resize(static_cast<size_t>(weights.in * weights.stride * 2));
  const std::byte* from = layer.buffers().front().bytes.data();
  for (int64_t channel = 0; channel < weights.in; ++channel)
    std::memcpy(buffers.data.data() + channel * weights.stride * 2, from + channel * weights.out * 2,
                static_cast<size_t>(weights.out) * 2);
  return make_channel_gemv(weights, buffers, layer.full_level(), stream);
}

const RegisterGemv registered{"dense16", "thresholded_channels",
                              "16-bit floats; channels below a threshold are not fetched", make};

}  // namespace

}  // namespace grinqh::cuda
