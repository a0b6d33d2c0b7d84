// Layers of this layout for `bench kernels`.
#include "core/parallel.h"
#include "core/rng.h"
#include "kernels/aligned_2_4_16/layout.h"
#include "quant/bench_layers.h"

namespace grinqh {
namespace {

// Every eighth group wide, `outlier_share` of the narrow groups' weights apart: 2.91 bits in all at 0.005.
std::unique_ptr<QuantizedLinear> make(int64_t out, int64_t in, double outlier_share, uint64_t seed) {
  using Shape = Aligned2416Shape;
  Shape shape{out, in, {}};
  Rng places(seed, 0);
  for (int64_t g = 0; g < shape.groups(); g += 8) {
    const auto wide = g + static_cast<int64_t>(places.below(8));
    for (int64_t each = g; each < std::min(g + 8, shape.groups()); ++each)
      shape.wide.push_back(each == wide ? 1 : 0);
  }
  const std::vector<int64_t> numbers = shape.places();
  Aligned2416Parts parts(shape);
  parts.codes = random_codes(out, in, 4, seed + 1);
  parts.zeros = random_codes(out, shape.groups(), 4, seed + 2);
  parts.scale_codes = random_codes(out, shape.groups(), 4, seed + 3);
  parts.second_zeros = random_codes(shape.row_blocks(), shape.groups(), 3, seed + 4);
  const double range = 6 * kBenchDeviation;
  parts.wide_scales = random_halves(out, shape.groups(), range / 20, range / 12, seed + 5);
  parts.second_scales = random_halves(shape.row_blocks(), shape.groups(), range / 40, range / 24, seed + 6);
  parallel_for(out, [&](int64_t row) {
    for (int64_t g = 0; g < shape.groups(); ++g) {
      if (shape.wide[static_cast<size_t>(g)]) continue;
      for (int64_t i = g * Shape::kGroup; i < g * Shape::kGroup + shape.width_of(g); ++i)
        parts.codes.row(row)[i] &= 3;
      parts.zeros.row(row)[g] &= 3;
      parts.scale_codes.row(row)[g] &=
          static_cast<uint8_t>((1 << Shape::scale_bits(numbers[static_cast<size_t>(g)])) - 1);
    }
  });
  if (outlier_share > 0) {
    Rng rng(seed, 1);
    const auto spacing = static_cast<uint64_t>(2 / outlier_share);
    const MatrixBuffer<uint16_t> values = random_halves(1, 4096, 0.5 * range, range, seed + 7);
    for (int64_t row = 0; row < out; ++row)
      for (auto i = static_cast<int64_t>(rng.below(spacing)); i < in;
           i += 1 + static_cast<int64_t>(rng.below(spacing)))
        if (!shape.wide[static_cast<size_t>(i / Shape::kGroup)])
          parts.outliers.push_back({row, i, values.data()[rng.below(4096)]});
  }
  return std::make_unique<Aligned2416Linear>(shape, parts);
}

BenchLayers layers(const std::string& variant, const std::string& summary, double outlier_share) {
  BenchLayers all{"aligned_2_4_16", variant, variant.empty(), summary};
  all.bits = {2.25};
  all.make = [outlier_share](int64_t out, int64_t in, double, uint64_t seed) {
    return make(out, in, outlier_share, seed);
  };
  return all;
}

const RegisterBenchLayers registered[] = {
    RegisterBenchLayers(layers("", "an eighth of the groups wide, 0.5% outliers: 2.91 bits in all", 0.005)),
    RegisterBenchLayers(layers("no_outliers", "an eighth of the groups wide", 0))};

}  // namespace
}  // namespace grinqh
