// Codes of 8 bits channel by channel, so that channels below a threshold are not fetched.
#include <algorithm>
#include <cstring>

#include "core/half.h"
#include "core/parallel.h"
#include "cuda/channel_layer.h"
#include "kernels/group_affine/layout.h"

namespace grinqh::cuda {

namespace {

// to[g][row] = from[row][g]
std::vector<uint16_t> turned(int64_t out, int64_t groups, int64_t stride, const auto& at) {
  std::vector<uint16_t> values(static_cast<size_t>(groups * stride));
  for (int64_t row = 0; row < out; ++row)
    for (int64_t g = 0; g < groups; ++g) values[static_cast<size_t>(g * stride + row)] = at(row * groups + g);
  return values;
}

std::unique_ptr<Gemv> make(GemvLayers layers, Stream stream) {
  if (layers.size() != 1) return nullptr;
  const QuantizedLinear& layer = *layers.front();
  const GroupAffineShape shape = GroupAffineShape::of(layer.attributes());
  const int64_t groups = shape.groups();
  if (shape.bits != 8 || (groups > 1 && shape.group % 8 != 0)) return nullptr;
  ChannelWeights weights;
  weights.element = ChannelWeights::Element::codes8;
  weights.out = shape.out;
  weights.in = shape.in;
  weights.stride = channel_stride(shape.out);
  weights.group = groups == 1 ? (shape.in + 7) / 8 * 8 : shape.group;

  ChannelBuffers buffers;
  for (const NamedBuffer& buffer : layer.buffers()) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(buffer.bytes.data());
    const auto half_at = [bytes](int64_t i) {
      uint16_t half;
      std::memcpy(&half, bytes + i * 2, 2);
      return half;
    };
    if (buffer.name == "codes") {
      buffers.data.resize(static_cast<size_t>(shape.in * weights.stride));
      constexpr int64_t kTile = 64;
      parallel_for((shape.in + kTile - 1) / kTile, [&](int64_t tile) {
        const int64_t end = std::min(shape.in, (tile + 1) * kTile);
        for (int64_t row = 0; row < shape.out; ++row)
          for (int64_t i = tile * kTile; i < end; ++i)
            buffers.data[static_cast<size_t>(i * weights.stride + row)] = bytes[row * shape.in + i];
      });
    } else if (buffer.name == "scales") {
      buffers.scales = turned(shape.out, groups, weights.stride, half_at);
    } else if (buffer.name == "zeros") {
      buffers.zeros = shape.real_zeros ? turned(shape.out, groups, weights.stride, half_at)
                                       : turned(shape.out, groups, weights.stride, [bytes](int64_t i) {
                                           return to_half(static_cast<float>(bytes[i]));
                                         });
    } else if (buffer.name == "column_scales") {
      for (int64_t i = 0; i < shape.in; ++i) buffers.column_scales.push_back(half_at(i));
    }
  }
  return make_channel_gemv(weights, buffers, layer.full_level(), stream);
}

// Every other kernel of this layout comes before it: it has the codes once more, for those who skip channels.
const RegisterGemv registered{"group_affine", "thresholded_channels",
                              "8 bits; channels below a threshold are not fetched", make};

}  // namespace

}  // namespace grinqh::cuda
