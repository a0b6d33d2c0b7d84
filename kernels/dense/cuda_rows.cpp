// bfloat16 weights of this layout, turned to rows, by the product of unquantized layers.
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

std::unique_ptr<Gemv> make(GemvLayers layers, Stream stream) {
  if (layers.size() != 1) return nullptr;
  const QuantizedLinear& layer = *layers.front();
  if (layer.attributes().at("dtype") != to_string(DType::bf16)) return nullptr;
  const int64_t out = layer.out(), in = layer.in(), stride = (in + 7) / 8 * 8;
  const std::span<const std::byte> bytes = layer.buffers().front().bytes;
  const auto* channels = reinterpret_cast<const uint16_t*>(bytes.data());
  MatrixBuffer<uint16_t> rows = MatrixBuffer<uint16_t>::zeroed(out, stride);
  parallel_for((out + kTile - 1) / kTile, [&](int64_t task) {
    const int64_t begin = task * kTile, end = std::min(begin + kTile, out);
    for (int64_t first = 0; first < in; first += kTile)
      for (int64_t row = begin; row < end; ++row)
        for (int64_t i = first; i < std::min(first + kTile, in); ++i)
          rows.row(row)[i] = channels[i * out + row];
  });
  const Bytes device(rows.size() * 2, stream);
  to_device(rows.data(), device.data(), device.size(), stream);
  const ConstView view{device.data(), out, in, stride, Type::bf16};
  const auto borrowed = make_dense_gemv({&view, 1});
  return borrowed ? borrowed->clone(stream) : nullptr;  // the clone owns what it reads
}

const RegisterGemv registered{"dense16", "rows", "bfloat16, row by row", make};

}  // namespace
}  // namespace grinqh::cuda
