// Layers of this layout for `bench kernels`.
#include <algorithm>

#include "core/half.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "kernels/lut_planes/layout.h"
#include "quant/bench_layers.h"

namespace grinqh {
namespace {

// One store for 2 to 8 bits; tables ascend, as clusters of a row's weights do.
std::unique_ptr<QuantizedLinear> make(int64_t out, int64_t in, double outlier_share, uint64_t seed) {
  LutPlanesShape shape{out, in, {2, 3, 4, 5, 6, 7, 8}};
  std::vector<uint16_t> tables(static_cast<size_t>(shape.table_offset(kFullLevel)));
  for (const Level level : shape.levels) {
    const int64_t offset = shape.table_offset(level), entries = int64_t{1} << level;
    parallel_for(out, [&](int64_t row) {
      Rng rng(seed + level, static_cast<uint64_t>(row));
      for (int64_t e = 0; e < entries; ++e) {
        const double place =
            (static_cast<double>(e) + 0.25 + 0.5 * rng.uniform()) / static_cast<double>(entries);
        tables[static_cast<size_t>(offset + row * entries + e)] =
            to_half(static_cast<float>(6 * kBenchDeviation * (place - 0.5)));
      }
    });
  }
  Outliers outliers;
  MatrixBuffer<float> weight;
  if (outlier_share > 0) {
    weight = MatrixBuffer<float>(out, in);
    std::fill_n(weight.data(), weight.size(), static_cast<float>(4 * kBenchDeviation));
    outliers.row_begin.push_back(0);
    Rng rng(seed, 1);
    const auto spacing = static_cast<uint64_t>(2 / outlier_share);
    for (int64_t row = 0; row < out; ++row) {
      for (auto i = static_cast<int64_t>(rng.below(spacing)); i < in;
           i += 1 + static_cast<int64_t>(rng.below(spacing)))
        outliers.columns.push_back(static_cast<uint32_t>(i));
      outliers.row_begin.push_back(static_cast<uint32_t>(outliers.columns.size()));
    }
  }
  return std::make_unique<LutPlanesLinear>("bench", shape, random_codes(out, in, 8, seed), std::move(tables),
                                           outliers, weight);
}

BenchLayers layers(const std::string& variant, const std::string& summary, double outlier_share) {
  BenchLayers all{"lut_planes", variant, variant.empty(), summary, BenchReading::level};
  all.bits = {2, 3, 4, 5, 6, 7, 8};
  all.make = [outlier_share](int64_t out, int64_t in, double, uint64_t seed) {
    return make(out, in, outlier_share, seed);
  };
  return all;
}

const RegisterBenchLayers registered[] = {
    RegisterBenchLayers(layers("", "one store for 2 to 8 bits", 0)),
    RegisterBenchLayers(layers("outliers", "the same with 0.45% of the weights apart", 0.0045))};

}  // namespace
}  // namespace grinqh
