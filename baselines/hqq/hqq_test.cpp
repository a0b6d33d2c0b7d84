#include "core/dtype.h"
#include "core/registry.h"
#include "model_files.h"
#include "numbers.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

std::unique_ptr<QuantizedLinear> quantize(Matrix<const float> weight, int bits, int64_t group, int iterations,
                                          double beta = 10.0) {
  const LayerStats nothing;
  return Registry<Quantizer>::get()
      .make("hqq", {{"bits", {bits, "test"}},
                    {"group", {group, "test"}},
                    {"iterations", {iterations, "test"}},
                    {"beta", {beta, "test"}}})
      ->quantize({"layer", weight, nothing});
}

std::vector<float> halves(const QuantizedLinear& layer, const std::string& name) {
  const Buffers buffers = copy_buffers(layer);
  const std::vector<std::byte>& bytes = buffers.at(name);
  std::vector<uint16_t> values(bytes.size() / 2);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  std::vector<float> result;
  for (const uint16_t value : values) result.push_back(from_half(value));
  return result;
}

double mean_error(const MatrixBuffer<float>& a, Matrix<const float> b) {
  double sum = 0;
  for (int64_t i = 0; i < a.size(); ++i) sum += std::abs(a.data()[i] - b.data[i]);
  return sum / static_cast<double>(a.size());
}

// Heavy tails, so that ranges are far from where most weights are.
MatrixBuffer<float> weights(uint64_t seed, double deviation = 0.05) {
  MatrixBuffer<float> w = testing::random_matrix(24, 256, seed, deviation);
  for (int64_t i = 0; i < w.size(); i += 29) w.data()[i] *= 3;
  return w;
}

TEST(Hqq, WithoutIterationsRoundsToTheRange) {
  const MatrixBuffer<float> w = weights(1);
  for (const int bits : {2, 3, 4}) {
    const MatrixBuffer<float> found = quantize(w, bits, 64, 0)->dequantize();
    const float top = static_cast<float>((1 << bits) - 1);
    for (int64_t row = 0; row < w.rows(); ++row)
      for (int64_t g = 0; g < 4; ++g) {
        const std::span<const float> group(w.row(row) + 64 * g, 64);
        const float low = *std::ranges::min_element(group), high = *std::ranges::max_element(group);
        const float scale = from_half(to_half((high - low) / top));
        const float zero = from_half(to_half(-low / scale));
        for (int64_t i = 0; i < 64; ++i) {
          const float code =
              std::clamp(std::nearbyint(group[static_cast<size_t>(i)] / scale + zero), 0.0f, top);
          ASSERT_EQ(found.row(row)[64 * g + i], scale * (code - zero)) << row << " " << g << " " << i;
        }
      }
  }
}

TEST(Hqq, RangesNeedNotIncludeZero) {
  MatrixBuffer<float> w(1, 4);
  const float values[] = {2.0f, 2.25f, 2.5f, 2.75f};
  std::copy_n(values, 4, w.data());
  const auto layer = quantize(w, 2, 0, 20);
  EXPECT_EQ(halves(*layer, "zeros"), std::vector<float>{-8.0f});
  const MatrixBuffer<float> found = layer->dequantize();
  EXPECT_TRUE(std::equal(values, values + 4, found.data()));
}

TEST(Hqq, TheMeanErrorFallsWithEveryIteration) {
  const MatrixBuffer<float> w = weights(2);
  for (const int bits : {2, 3, 4}) {
    const double first = mean_error(quantize(w, bits, 64, 0)->dequantize(), w);
    double last = first;
    for (int iterations = 1; iterations <= 8; ++iterations) {
      const double error = mean_error(quantize(w, bits, 64, iterations)->dequantize(), w);
      EXPECT_LE(error, last) << bits << " bits, iteration " << iterations;
      last = error;
    }
    EXPECT_LT(last, 0.99 * first) << bits;
    EXPECT_EQ(mean_error(quantize(w, bits, 64, 500)->dequantize(), w),
              mean_error(quantize(w, bits, 64, 1000)->dequantize(), w))
        << "it ends by itself";
  }
}

// One iteration as the authors describe it, on one group.
double zero_after_one_iteration(std::span<const float> group, int bits, double beta) {
  const double top = (1 << bits) - 1;
  const float low = *std::ranges::min_element(group), high = *std::ranges::max_element(group);
  const double scale = from_half(to_half((high - low) / static_cast<float>(top)));
  const double zero = from_half(to_half(-low / static_cast<float>(scale)));
  double sum = 0;
  for (const float w : group) {
    const double code = std::clamp(std::nearbyint(w / scale + zero), 0.0, top);
    const double x = w - scale * (code - zero);
    const double e =
        x == 0 ? 0 : std::copysign(std::max(std::abs(x) - std::pow(std::abs(x), -0.3) / beta, 0.0), x);
    sum += code - (w - e) / scale;
  }
  return sum / static_cast<double>(group.size());
}

TEST(Hqq, OneIterationByTheFormulas) {
  // At a deviation of 2 and beta = 10 the sparse part of the error takes part; at 0.05 it is zero.
  for (const double deviation : {0.05, 2.0}) {
    const MatrixBuffer<float> w = weights(3, deviation);
    const std::vector<float> before = halves(*quantize(w, 3, 64, 0), "zeros");
    const std::vector<float> after = halves(*quantize(w, 3, 64, 1), "zeros");
    int moved = 0;
    for (size_t g = 0; g < after.size(); ++g) {
      if (after[g] == before[g]) continue;  // the error did not fall: it stays
      ++moved;
      EXPECT_NEAR(after[g], zero_after_one_iteration({w.data() + 64 * g, 64}, 3, 10.0), 4e-3) << g;
    }
    EXPECT_GT(moved, 24) << "of 96 groups";
  }
  // With a small beta nothing is sparse, with a large one everything is, and the zero point stays.
  const MatrixBuffer<float> w = weights(4);
  EXPECT_EQ(halves(*quantize(w, 3, 64, 1, 1e6), "zeros"), halves(*quantize(w, 3, 64, 0), "zeros"));
}

TEST(Hqq, BitsByHand) {
  const MatrixBuffer<float> w = testing::random_matrix(10, 300, 5);
  // Groups of 128: 3 a row, each with a float16 scale and a float16 zero point.
  const auto layer = quantize(w, 4, 128, 20);
  EXPECT_EQ(layer->stored_bits().total(), 10 * (300 * 4 + 3 * 32));
  EXPECT_EQ(layer->stored_bits()[Role::zeros], 10 * 3 * 16);
}

TEST(Hqq, NarrowGroupsFarFromZeroKeepAZeroPoint) {
  MatrixBuffer<float> w(2, 8);
  for (int64_t i = 0; i < 8; ++i) w.row(0)[i] = 50.0f, w.row(1)[i] = -700.0f + 0.001f * static_cast<float>(i);
  const MatrixBuffer<float> found = quantize(w, 4, 0, 20)->dequantize();
  for (int64_t i = 0; i < w.size(); ++i)
    EXPECT_NEAR(found.data()[i], w.data()[i], 1e-3f * std::abs(w.data()[i])) << i;
  w.row(1)[0] = 1e7f;
  EXPECT_REFUSED(quantize(w, 4, 0, 20), "layer", "float16");
}

TEST(Hqq, NeedsNoData) { EXPECT_TRUE(Registry<Quantizer>::get().make("hqq")->needs().empty()); }

}  // namespace
}  // namespace grinqh
