// Layers of this layout for `bench kernels`.
#include <cmath>

#include "kernels/group_affine/layout.h"
#include "quant/bench_layers.h"

namespace grinqh {
namespace {

enum class Zeros { integers, none, halves };

std::unique_ptr<QuantizedLinear> make(const GroupAffineShape& shape, uint64_t seed) {
  const double levels = 1 << shape.bits;
  // About six standard deviations a group.
  const double step = 6 * kBenchDeviation / levels;
  const MatrixBuffer<uint8_t> codes = random_codes(shape.out, shape.in, shape.bits, seed);
  const MatrixBuffer<uint16_t> scales =
      random_halves(shape.out, shape.groups(), 0.75 * step, 1.25 * step, seed + 1);
  MatrixBuffer<uint16_t> columns;
  if (shape.column_scales) columns = random_halves(1, shape.in, 0.5, 2, seed + 3);
  const std::span<const uint16_t> column_scales(columns.data(), static_cast<size_t>(columns.size()));
  if (shape.real_zeros) {
    const MatrixBuffer<uint16_t> zeros =
        random_halves(shape.out, shape.groups(), 0.4 * levels, 0.6 * levels, seed + 2);
    return std::make_unique<GroupAffineLinear>(shape, codes, scales, zeros, column_scales);
  }
  // From the middle up to half of the range away.
  MatrixBuffer<uint8_t> zeros = random_codes(shape.out, shape.groups(), shape.bits - 1, seed + 2);
  for (int64_t i = 0; i < zeros.size(); ++i)
    zeros.data()[i] = static_cast<uint8_t>(zeros.data()[i] + (1 << shape.bits) / 4);
  return std::make_unique<GroupAffineLinear>(shape, codes, scales, Matrix<const uint8_t>(zeros),
                                             column_scales);
}

BenchLayers layers(const std::string& variant, const std::string& summary, int64_t group, Zeros kind,
                   bool columns = false) {
  BenchLayers all{"group_affine", variant, variant.empty(), summary};
  all.bits = {2, 3, 4, 8};
  all.make = [=](int64_t out, int64_t in, double bits, uint64_t seed) {
    return make({out, in, static_cast<int>(std::lround(bits)), group, kind == Zeros::none,
                 kind == Zeros::halves, columns},
                seed);
  };
  return all;
}

// Channels left out of 8-bit codes: TEAL's case.
BenchLayers sparse_layers() {
  BenchLayers all = layers("sparse", "8 bits, all channels, half or a quarter of them", 128, Zeros::integers);
  all.reading = BenchReading::graded;
  all.levels = {0, 8};
  all.bits = {8, 4, 2};
  const auto make = all.make;
  all.make = [make](int64_t out, int64_t in, double, uint64_t seed) { return make(out, in, 8, seed); };
  return all;
}

const RegisterBenchLayers registered[] = {
    RegisterBenchLayers(layers("", "groups of 128, integer zero points", 128, Zeros::integers)),
    RegisterBenchLayers(layers("g64", "groups of 64, integer zero points", 64, Zeros::integers)),
    RegisterBenchLayers(layers("g32", "groups of 32, integer zero points", 32, Zeros::integers)),
    RegisterBenchLayers(layers("channel", "one scale and integer zero point a row", 0, Zeros::integers)),
    RegisterBenchLayers(layers("symmetric", "groups of 128, no zero points", 128, Zeros::none)),
    RegisterBenchLayers(sparse_layers()),
    RegisterBenchLayers(layers("real_zeros", "groups of 128, float16 zero points", 128, Zeros::halves)),
    RegisterBenchLayers(layers("columns", "groups of 128, integer zero points, scales of columns", 128,
                               Zeros::integers, true))};

}  // namespace
}  // namespace grinqh
