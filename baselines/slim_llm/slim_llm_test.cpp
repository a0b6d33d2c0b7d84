// SliM-LLM against its parts computed another way: round to nearest per group for the search, trial of every
// scale, and plain feedback where nothing is mixed.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>

#include "core/cholesky.h"
#include "core/dtype.h"
#include "core/registry.h"
#include "numbers.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

struct Problem {
  MatrixBuffer<float> weight;
  MatrixBuffer<float> moments;

  // Groups of 16 inputs of different sizes; `correlated` inputs share a part.
  Problem(int64_t out, int64_t in, double correlated, uint64_t seed)
      : weight(testing::random_matrix(out, in, seed)), moments(in, in) {
    const int64_t tokens = 3 * in;
    MatrixBuffer<float> x = testing::random_matrix(tokens, in, seed + 1);
    const std::vector<float> shared = testing::random_vector(tokens, seed + 2, correlated);
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t i = 0; i < in; ++i)
        x.row(t)[i] = (x.row(t)[i] + shared[static_cast<size_t>(t)]) *
                      std::exp2(static_cast<float>(i / 16 * 3 % 7) / 2);
    for (int64_t i = 0; i < in; ++i)
      for (int64_t j = 0; j < in; ++j) {
        double sum = 0;
        for (int64_t t = 0; t < tokens; ++t)
          sum += static_cast<double>(x.row(t)[i]) * static_cast<double>(x.row(t)[j]);
        moments.row(i)[j] =
            correlated > 0 || i == j ? static_cast<float>(sum / static_cast<double>(tokens)) : 0.0f;
      }
  }

  std::unique_ptr<QuantizedLinear> quantize(const std::string& name, const Json& options) const {
    Settings settings;
    for (const auto& [key, value] : options.items()) settings.emplace(key, Setting{value, "test"});
    LayerStats stats;
    stats.values["second_moment"].assign(moments.data(), moments.data() + moments.size());
    return Registry<Quantizer>::get().make(name, settings)->quantize({"layer", weight, stats});
  }

  double loss(const MatrixBuffer<float>& q) const {
    double sum = 0;
    for (int64_t row = 0; row < weight.rows(); ++row)
      for (int64_t i = 0; i < weight.cols(); ++i)
        for (int64_t j = 0; j < weight.cols(); ++j)
          sum += static_cast<double>(weight.row(row)[i] - q.row(row)[i]) *
                 static_cast<double>(moments.row(i)[j]) *
                 static_cast<double>(weight.row(row)[j] - q.row(row)[j]);
    return sum;
  }
};

std::vector<int> widths_of(const QuantizedLinear& layer) {
  std::vector<int> widths;
  const Buffers buffers = copy_buffers(layer);
  for (const std::byte each : buffers.at("widths")) widths.push_back(std::to_integer<int>(each));
  return widths;
}

// Groups by falling mean of W_ij^2 / U_jj^2.
std::vector<size_t> by_salience(const Problem& problem) {
  const InverseFactor factor = inverse_cholesky(problem.moments, 0.01);
  const auto groups = static_cast<size_t>(problem.weight.cols() / 16);
  std::vector<double> salience(groups, 0.0);
  for (int64_t i = 0; i < problem.weight.cols(); ++i)
    for (int64_t row = 0; row < problem.weight.rows(); ++row)
      salience[static_cast<size_t>(i / 16)] += std::pow(
          static_cast<double>(problem.weight.row(row)[i]) / static_cast<double>(factor.upper.row(i)[i]), 2);
  std::vector<size_t> order(groups);
  std::iota(order.begin(), order.end(), 0);
  std::ranges::sort(order, [&](size_t a, size_t b) { return salience[a] > salience[b]; });
  return order;
}

TEST(SlimLlm, FindsTheMixtureOfLeastOutputError) {
  size_t most_mixed = 0;
  for (const double correlated : {0.0, 1.0})
    for (const uint64_t seed : {1, 20, 40}) {
      const Problem problem(24, 112, correlated, seed);
      const std::vector<size_t> order = by_salience(problem);
      std::map<int, MatrixBuffer<float>> rounded;
      for (const int bits : {2, 3, 4})
        rounded[bits] = problem.quantize("rtn", {{"bits", bits}, {"group", 16}})->dequantize();
      std::vector<int> best;
      double least = HUGE_VAL;
      for (size_t k = 0; k <= order.size() / 2; ++k) {
        std::vector<int> widths(order.size(), 3);
        for (size_t n = 0; n < k; ++n) widths[order[n]] = 4, widths[order[order.size() - 1 - n]] = 2;
        MatrixBuffer<float> q(24, 112);
        for (int64_t row = 0; row < 24; ++row)
          for (int64_t i = 0; i < 112; ++i)
            q.row(row)[i] = rounded.at(widths[static_cast<size_t>(i / 16)]).row(row)[i];
        if (problem.loss(q) < least) least = problem.loss(q), best = widths;
        if (best == widths) most_mixed = std::max(most_mixed, k);
      }
      EXPECT_EQ(widths_of(*problem.quantize("slim_llm", {{"bits", 3}, {"group", 16}})), best)
          << correlated << seed;
    }
  EXPECT_GT(most_mixed, 0u);
}

TEST(SlimLlm, MeanWidthIsWhatWasAskedFor) {
  const Problem problem(8, 112, 1.0, 3);
  for (const int bits : {2, 3, 5}) {
    const auto layer = problem.quantize("slim_llm", {{"bits", bits}, {"group", 16}});
    const BitCount read = layer->read_bits(LevelCounts::uniform(layer->full_level(), 112));
    EXPECT_EQ(read.codes(), bits * layer->weights());
  }
}

TEST(SlimLlm, UnmixedOnPlainScalesIsPlainFeedback) {
  const Problem problem(20, 96, 1.0, 5);
  const auto layer = problem.quantize(
      "slim_llm", {{"bits", 3}, {"group", 16}, {"block", 16}, {"mixed", false}, {"scale_search", false}});
  const auto expected = problem.quantize("gptq", {{"bits", 3}, {"group", 16}, {"block", 16}});
  EXPECT_EQ(testing::relative_error(layer->dequantize(), expected->dequantize()), 0.0);
}

// Without correlations nothing is fed back: each group of a row stands alone.
TEST(SlimLlm, ScaleSearchFindsTheBestOfAHundredAndOne) {
  const Problem problem(12, 48, 0.0, 7);
  const Json options = {{"bits", 2}, {"group", 16}, {"mixed", false}};
  const MatrixBuffer<float> found = problem.quantize("slim_llm", options)->dequantize();
  const auto plain = problem.quantize("rtn", {{"bits", 2}, {"group", 16}});
  int improved = 0;
  for (int64_t row = 0; row < 12; ++row)
    for (int64_t g = 0; g < 3; ++g) {
      const float* w = problem.weight.row(row) + 16 * g;
      const auto [low, high] =
          std::minmax({0.0f, *std::min_element(w, w + 16), *std::max_element(w, w + 16)});
      const float exact = from_half(to_half((high - low) / 3));
      const float zero = std::nearbyint(-low / exact);
      double least = HUGE_VAL, first = 0, ours = 0;
      for (int trial = 0; trial <= 100; ++trial) {
        const float scale = from_half(to_half(exact * (0.9f + 0.002f * static_cast<float>(trial))));
        double loss = 0;
        for (int i = 0; i < 16; ++i) {
          const float code = std::clamp(std::nearbyint(w[i] / scale) + zero, 0.0f, 3.0f);
          loss += std::pow(std::abs(static_cast<double>(w[i] - scale * (code - zero))), 2.4);
        }
        least = std::min(least, loss);
        if (trial == 50) first = loss;
      }
      for (int i = 0; i < 16; ++i)
        ours += std::pow(std::abs(static_cast<double>(w[i] - found.row(row)[16 * g + i])), 2.4);
      EXPECT_NEAR(ours, least, 1e-3 * least) << row << " " << g;
      improved += least < 0.99 * first;
    }
  EXPECT_GT(improved, 12);
}

TEST(SlimLlm, SalientWeightsAreRoundedBetterTheMoreTheyWeigh) {
  const Problem problem(32, 128, 0.0, 9);
  const auto salient_error = [&](double weight) {
    const Json options = {{"bits", 2}, {"group", 128}, {"mixed", false}, {"salient_weight", weight}};
    const MatrixBuffer<float> q = problem.quantize("slim_llm", options)->dequantize();
    const InverseFactor factor = inverse_cholesky(problem.moments, 0.01);
    std::vector<std::pair<double, double>> all;  // salience, |error|^2.4
    for (int64_t row = 0; row < 32; ++row)
      for (int64_t i = 0; i < 128; ++i)
        all.emplace_back(
            std::pow(
                static_cast<double>(problem.weight.row(row)[i]) / static_cast<double>(factor.upper.row(i)[i]),
                2),
            std::pow(std::abs(static_cast<double>(problem.weight.row(row)[i] - q.row(row)[i])), 2.4));
    double mean = 0, square = 0, error = 0;
    for (const auto& [salience, unused] : all) mean += salience / static_cast<double>(all.size());
    for (const auto& [salience, unused] : all)
      square += std::pow(salience - mean, 2) / static_cast<double>(all.size());
    for (const auto& [salience, each] : all)
      if (salience > mean + 2 * std::sqrt(square)) error += each;
    return error;
  };
  EXPECT_LT(salient_error(100), 0.9 * salient_error(1));
}

TEST(SlimLlm, OneBitIsTheMeanAndTheMeanDeviation) {
  // The second group's inputs are all but silent: it gets one bit.
  Problem problem(4, 32, 0.0, 11);
  for (int64_t i = 16; i < 32; ++i) problem.moments.row(i)[i] *= 1e-6f;
  const auto layer = problem.quantize("slim_llm", {{"bits", 2}, {"group", 16}});
  ASSERT_EQ(widths_of(*layer), (std::vector<int>{3, 1}));
  const MatrixBuffer<float> decoded = layer->dequantize();
  for (int64_t row = 0; row < 4; ++row) {
    const float* w = problem.weight.row(row) + 16;
    const double mean = std::accumulate(w, w + 16, 0.0) / 16;
    double step = 0;
    for (int i = 0; i < 16; ++i) step += std::abs(static_cast<double>(w[i]) - mean) / 16;
    for (int i = 0; i < 16; ++i)
      EXPECT_NEAR(decoded.row(row)[16 + i], static_cast<double>(w[i]) < mean ? mean - step : mean + step,
                  2e-3)
          << row << " " << i;
  }
}

}  // namespace
}  // namespace grinqh
