// Weights of this layout, turned to rows, by the product of unquantized layers.
#include <algorithm>
#include <string>

#include "core/dtype.h"
#include "core/parallel.h"
#include "cuda/dense_gemv.h"
#include "cuda/memory.h"
#include "quant/quantized_linear.h"

namespace grinqh::cuda {
namespace {

constexpr int64_t kTile = 64;  // of the transposition

// to: [out, stride]
void put_rows(const QuantizedLinear& layer, uint16_t* to, int64_t stride) {
  const int64_t out = layer.out(), in = layer.in();
  const std::span<const std::byte> bytes = layer.buffers().front().bytes;
  const auto* channels = reinterpret_cast<const uint16_t*>(bytes.data());
  parallel_for((out + kTile - 1) / kTile, [&](int64_t task) {
    const int64_t begin = task * kTile, end = std::min(begin + kTile, out);
    for (int64_t first = 0; first < in; first += kTile)
      for (int64_t row = begin; row < end; ++row)
        for (int64_t i = first; i < std::min(first + kTile, in); ++i)
          to[row * stride + i] = channels[i * out + row];
  });
}

std::unique_ptr<Gemv> make(GemvLayers layers, Stream stream) {
  const auto dtype_of = [](const QuantizedLinear* layer) { return layer->attributes().at("dtype"); };
  const Json dtype = dtype_of(layers.front());
  const int64_t in = layers.front()->in(), stride = (in + 7) / 8 * 8;
  int64_t out = 0;
  for (const QuantizedLinear* layer : layers) {
    if (dtype_of(layer) != dtype) return nullptr;
    out += layer->out();
  }
  MatrixBuffer<uint16_t> rows = MatrixBuffer<uint16_t>::zeroed(out, stride);
  int64_t above = 0;
  for (const QuantizedLinear* layer : layers) {
    put_rows(*layer, rows.row(above), stride);
    above += layer->out();
  }
  const Bytes device(rows.size() * 2, stream);
  to_device(rows.data(), device.data(), device.size(), stream);
  const ConstView view{device.data(), out, in, stride, Type::bf16};
  const auto borrowed = dtype == to_string(DType::bf16)
                            ? make_dense_gemv({&view, 1})
                            : make_dense_gemv_f16(device.as<uint16_t>(), out, in, stride);
  return borrowed ? borrowed->clone(stream) : nullptr;  // the clone owns what it reads
}

const RegisterGemv registered{"dense16", "rows", "16-bit floats, row by row", make, GemvKernel::Grades::no};

}  // namespace
}  // namespace grinqh::cuda
