// Layers of this layout for `bench kernels`.
#include <cmath>

#include "kernels/group_mixed/layout.h"
#include "quant/bench_layers.h"

namespace grinqh {
namespace {

// As many groups a bit below the mean as a bit above it, half of all at it.
std::unique_ptr<QuantizedLinear> make(int64_t out, int64_t in, int bits, uint64_t seed) {
  GroupMixedShape shape{out, in, 128, {}};
  constexpr int kOff[] = {0, -1, 0, 1};
  for (int64_t g = 0; g < shape.groups(); ++g)
    shape.widths.push_back(static_cast<uint8_t>(bits + kOff[static_cast<size_t>(g % 4)]));
  GroupMixedParts parts(shape);
  parts.codes = random_codes(out, in, 8, seed);
  parts.zeros = random_codes(out, shape.groups(), 8, seed + 1);
  parts.means = random_halves(out, shape.groups(), -0.1 * kBenchDeviation, 0.1 * kBenchDeviation, seed + 2);
  const double step = 6 * kBenchDeviation / (1 << bits);
  parts.scales = random_halves(out, shape.groups(), 0.75 * step, 1.25 * step, seed + 3);
  for (int64_t row = 0; row < out; ++row)
    for (int64_t g = 0; g < shape.groups(); ++g) {
      const auto mask = static_cast<uint8_t>((1u << shape.widths[static_cast<size_t>(g)]) - 1);
      parts.zeros.row(row)[g] &= mask;
      for (int64_t i = shape.begin_of(g); i < shape.end_of(g); ++i) parts.codes.row(row)[i] &= mask;
    }
  return std::make_unique<GroupMixedLinear>(shape, parts);
}

const RegisterBenchLayers registered{{"group_mixed",
                                      "",
                                      true,
                                      "groups of 128 of the mean width, of one bit less and of one more",
                                      BenchReading::whole,
                                      {},
                                      {2, 3, 4},
                                      [](int64_t out, int64_t in, double bits, uint64_t seed) {
                                        return make(out, in, static_cast<int>(std::lround(bits)), seed);
                                      }}};

}  // namespace
}  // namespace grinqh
