// Layers of this layout for `bench kernels`.
#include "core/half.h"
#include "core/rng.h"
#include "kernels/nested/layout.h"
#include "quant/bench_layers.h"

namespace grinqh {
namespace {

std::unique_ptr<QuantizedLinear> make(const NestedShape& shape, uint64_t seed) {
  // Groups that reach from about -3 to 3 standard deviations.
  const double range = 6 * kBenchDeviation, step = range / 256;
  const auto flat = [&](double low, double high, uint64_t stream) {
    const MatrixBuffer<uint16_t> halves = random_halves(1, shape.parameters(), low, high, seed + stream);
    return std::vector<uint16_t>(halves.data(), halves.data() + halves.size());
  };
  std::vector<uint16_t> table;
  Rng rng(seed);
  for (int level = 1; level <= shape.table_levels; ++level)
    for (int prefix = 0; prefix < 1 << level; ++prefix)
      table.push_back(
          to_half(static_cast<float>((prefix + 0.25 + 0.5 * rng.uniform()) * (1 << (8 - level)))));
  return std::make_unique<NestedLinear>(shape, random_codes(shape.out, shape.in, 8, seed + 1),
                                        flat(0.75 * step, 1.25 * step, 2),
                                        flat(-0.6 * range, -0.4 * range, 3), std::move(table));
}

struct Form {
  const char *variant, *summary;
  GroupAxis axis;
  int table_levels;
};

// The form read at single levels, or graded.
BenchLayers layers(const Form& form, bool graded) {
  BenchLayers all{"nested", form.variant, *form.variant == '\0', form.summary};
  if (graded) all.variant = all.variant.empty() ? "graded" : "graded_" + all.variant;
  all.reading = graded ? BenchReading::graded : BenchReading::level;
  const std::vector<Level> levels = graded ? std::vector<Level>{0, 2, 4, 8} : std::vector<Level>{2, 3, 4, 8};
  if (graded) all.levels = levels;
  all.bits = graded ? std::vector<double>{2, 2.5, 3, 4} : std::vector<double>{2, 3, 4, 8};
  constexpr int64_t kGroup = 128;
  all.make = [=](int64_t out, int64_t in, double, uint64_t seed) {
    return make({out, in, kGroup, form.axis, levels, form.table_levels}, seed);
  };
  return all;
}

constexpr Form kForms[] = {
    {"", "groups of 128 outputs, middles of cells", GroupAxis::output, 0},
    {"tables", "groups of 128 outputs, tables of up to 4 bits", GroupAxis::output, 4},
    {"inputs", "groups of 128 inputs, middles of cells", GroupAxis::input, 0},
    {"inputs_tables", "groups of 128 inputs, tables of up to 4 bits", GroupAxis::input, 4},
};
const bool registered = [] {
  for (const Form& form : kForms)
    for (const bool graded : {false, true}) RegisterBenchLayers(layers(form, graded));
  return true;
}();

}  // namespace
}  // namespace grinqh
