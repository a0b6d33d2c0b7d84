// Layers of this layout for `bench kernels`.
#include "core/dtype.h"
#include "core/half.h"
#include "kernels/dense/layout.h"
#include "quant/bench_layers.h"

namespace grinqh {
namespace {

std::unique_ptr<QuantizedLinear> make(int64_t out, int64_t in, DType dtype, uint64_t seed) {
  const double reach = 1.75 * kBenchDeviation;  // uniform values of about that deviation
  const MatrixBuffer<uint16_t> halves = random_halves(in, out, -reach, reach, seed);
  std::vector<uint16_t> weights(halves.data(), halves.data() + halves.size());
  if (dtype == DType::bf16)  // 16 bits of float16 become those of the float32 without its low half
    for (uint16_t& bits : weights)
      bits = static_cast<uint16_t>(std::bit_cast<uint32_t>(from_half(bits)) >> 16);
  return std::make_unique<DenseLinear>(DenseShape{out, in, dtype}, std::move(weights));
}

BenchLayers layers(const std::string& variant, const std::string& summary, DType dtype) {
  BenchLayers all{"dense16", variant, true, summary};
  all.bits = {16};
  all.make = [dtype](int64_t out, int64_t in, double, uint64_t seed) { return make(out, in, dtype, seed); };
  return all;
}

// Channels left out of 16-bit weights: TEAL's case.
BenchLayers sparse_layers() {
  BenchLayers all = layers("sparse", "float16, half of the channels or three quarters left out", DType::f16);
  all.reading = BenchReading::graded;
  all.levels = {0, 16};
  all.bits = {8, 4};
  return all;
}

const RegisterBenchLayers registered[] = {RegisterBenchLayers(layers("", "bfloat16", DType::bf16)),
                                          RegisterBenchLayers(layers("f16", "float16", DType::f16)),
                                          RegisterBenchLayers(sparse_layers())};

}  // namespace
}  // namespace grinqh
