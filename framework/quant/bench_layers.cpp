#include "quant/bench_layers.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/dtype.h"
#include "core/error.h"
#include "core/half.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "quant/grading.h"

namespace grinqh {

namespace {

std::vector<BenchLayers>& table() {
  static std::vector<BenchLayers> all;
  return all;
}

// Values that one generator makes; a row of a matrix is cut into such parts.
constexpr int64_t kPart = 1 << 16;

// make(part, index): elements [index * kPart, ...) of `values`.
template <class T, class Make>
void fill_parts(MatrixBuffer<T>& values, const Make& make) {
  parallel_for((values.size() + kPart - 1) / kPart, [&](int64_t i) {
    const int64_t begin = i * kPart;
    make(std::span<T>(values.data() + begin, static_cast<size_t>(std::min(kPart, values.size() - begin))),
         static_cast<uint64_t>(i));
  });
}

}  // namespace

RegisterBenchLayers::RegisterBenchLayers(BenchLayers layers) {
  const auto after =
      std::ranges::find_if(table(), [&](const BenchLayers& each) { return each.name() >= layers.name(); });
  check(after == table().end() || after->name() != layers.name(), "two bench layers of one name");
  table().insert(after, std::move(layers));
}

const std::vector<BenchLayers>& bench_layers() { return table(); }

MatrixBuffer<uint8_t> random_codes(int64_t rows, int64_t cols, int bits, uint64_t seed) {
  MatrixBuffer<uint8_t> codes(rows, cols);
  const uint64_t mask = 0x0101010101010101u * ((1u << bits) - 1);
  fill_parts(codes, [&](std::span<uint8_t> part, uint64_t index) {
    Rng rng(seed, index);
    for (size_t i = 0; i < part.size(); i += 8) {
      const uint64_t eight = rng.bits() & mask;
      std::memcpy(part.data() + i, &eight, std::min<size_t>(8, part.size() - i));
    }
  });
  return codes;
}

MatrixBuffer<uint16_t> random_halves(int64_t rows, int64_t cols, double low, double high, uint64_t seed) {
  MatrixBuffer<uint16_t> halves(rows, cols);
  fill_parts(halves, [&](std::span<uint16_t> part, uint64_t index) {
    Rng rng(seed, index);
    for (uint16_t& half : part) half = to_half(static_cast<float>(low + (high - low) * rng.uniform()));
  });
  return halves;
}

MatrixBuffer<float> bench_inputs(int64_t tokens, int64_t in, uint64_t seed) {
  constexpr double kSpread = 0.6;  // of the logarithm of the channels' sizes
  MatrixBuffer<float> x(tokens, in);
  Rng sizes(seed, 0), values(seed, 1);
  std::vector<double> size(static_cast<size_t>(in));
  for (double& each : size) each = std::exp(kSpread * sizes.normal());
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < in; ++i)
      x.row(t)[i] =
          rounded_to(DType::bf16, static_cast<float>(size[static_cast<size_t>(i)] * values.normal()));
  return x;
}

ChannelGrading bench_grading(Matrix<const float> x, const std::vector<Level>& levels, double bits) {
  ChannelGrading grading;
  grading.levels = levels;
  const size_t steps = levels.size() - 1;
  std::vector<double> unit;
  for (size_t j = 0; j < steps; ++j)
    unit.push_back(std::sqrt((levels[j + 1] - levels[j]) /
                             (std::exp2(-2.0 * levels[j]) - std::exp2(-2.0 * levels[j + 1]))));
  grading.thresholds = MatrixBuffer<float>(static_cast<int64_t>(steps), 1);

  std::vector<Level> increments;
  for (size_t j = 0; j < steps; ++j) increments.push_back(static_cast<Level>(levels[j + 1] - levels[j]));
  MatrixBuffer<float> spread(static_cast<int64_t>(steps), x.cols);
  std::vector<Level> chosen(static_cast<size_t>(x.cols));
  const auto mean_at = [&](double scale) {
    int64_t sum = 0;
    for (size_t j = 0; j < steps; ++j) {
      const auto threshold = static_cast<float>(scale * unit[j]);
      grading.thresholds.data()[j] = threshold;
      std::fill_n(spread.row(static_cast<int64_t>(j)), x.cols, threshold);
    }
    for (int64_t t = 0; t < x.rows; ++t) {
      grade(x.row_span(t), spread, increments, levels.front(), chosen);
      for (const Level level : chosen) sum += level;
    }
    return static_cast<double>(sum) / static_cast<double>(x.rows * x.cols);
  };
  double low = -40, high = 40, best = 0, off = std::numeric_limits<double>::infinity();  // of log2(scale)
  for (int step = 0; step < 60; ++step) {
    const double middle = 0.5 * (low + high), mean = mean_at(std::exp2(middle));
    if (std::abs(mean - bits) < off) off = std::abs(mean - bits), best = middle;
    (mean > bits ? low : high) = middle;
  }
  mean_at(std::exp2(best));
  return grading;
}

}  // namespace grinqh
