// GPTQ against optimal brain surgery as the paper derives it: the same rounding, but with the inverse Hessian
// of the remaining columns updated by elimination after each column instead of one Cholesky factor.
#include <gtest/gtest.h>

#include <cmath>

#include "core/parallel.h"
#include "core/registry.h"
#include "core/rng.h"
#include "kernels/group_affine/layout.h"
#include "numbers.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

using Doubles = std::vector<std::vector<double>>;

struct Problem {
  MatrixBuffer<float> weight, moments;
  LayerStats stats;

  // Inputs with strong correlations, so that feedback matters.
  Problem(int64_t out, int64_t in, uint64_t seed) : weight(out, in), moments(in, in) {
    Rng rng(seed);
    for (int64_t i = 0; i < weight.size(); ++i) weight.data()[i] = static_cast<float>(rng.normal());
    constexpr int kTokens = 400;
    Doubles x(kTokens, std::vector<double>(static_cast<size_t>(in)));
    for (auto& token : x) {
      const double shared = rng.normal();
      for (double& value : token) value = rng.normal() + 0.8 * shared;
    }
    for (int64_t i = 0; i < in; ++i)
      for (int64_t j = 0; j < in; ++j) {
        double sum = 0;
        for (const auto& token : x) sum += token[static_cast<size_t>(i)] * token[static_cast<size_t>(j)];
        moments.row(i)[j] = static_cast<float>(sum / kTokens);
      }
    stats.tokens = kTokens;
    stats.values["second_moment"].assign(moments.data(), moments.data() + moments.size());
  }

  LinearTask task() const { return {"layer", weight.view(), stats}; }

  // tr((W - Q) H (W - Q)^T)
  double loss(const MatrixBuffer<float>& q) const {
    double sum = 0;
    for (int64_t row = 0; row < weight.rows(); ++row)
      for (int64_t i = 0; i < weight.cols(); ++i)
        for (int64_t j = 0; j < weight.cols(); ++j)
          sum += static_cast<double>(weight.row(row)[i] - q.row(row)[i]) * moments.row(i)[j] *
                 static_cast<double>(weight.row(row)[j] - q.row(row)[j]);
    return sum;
  }
};

Settings settings(std::initializer_list<std::pair<const char*, Json>> values) {
  Settings result;
  for (const auto& [key, value] : values) result.emplace(key, Setting{value, "test"});
  return result;
}

// H^-1 by Gauss-Jordan elimination.
Doubles inverse(Doubles a) {
  const size_t n = a.size();
  Doubles b(n, std::vector<double>(n, 0.0));
  for (size_t i = 0; i < n; ++i) b[i][i] = 1;
  for (size_t i = 0; i < n; ++i) {
    const double pivot = a[i][i];
    for (size_t j = 0; j < n; ++j) a[i][j] /= pivot, b[i][j] /= pivot;
    for (size_t r = 0; r < n; ++r) {
      if (r == i) continue;
      const double factor = a[r][i];
      for (size_t j = 0; j < n; ++j) a[r][j] -= factor * a[i][j], b[r][j] -= factor * b[i][j];
    }
  }
  return b;
}

// Rounds the columns one after another, each time correcting all later ones; grids of whole rows.
MatrixBuffer<float> brain_surgery(const Problem& problem, int bits) {
  const int64_t out = problem.weight.rows(), in = problem.weight.cols();
  Doubles h(static_cast<size_t>(in), std::vector<double>(static_cast<size_t>(in)));
  double mean = 0;
  for (int64_t i = 0; i < in; ++i) mean += problem.moments.row(i)[i] / static_cast<double>(in);
  for (int64_t i = 0; i < in; ++i)
    for (int64_t j = 0; j < in; ++j)
      h[static_cast<size_t>(i)][static_cast<size_t>(j)] =
          problem.moments.row(i)[j] + (i == j ? 0.01 * mean : 0.0);
  Doubles left = inverse(h);
  const AffineGridRule rule{bits, false};
  std::vector<AffineGrid> grids;
  Doubles w;
  for (int64_t row = 0; row < out; ++row) {
    grids.push_back(rule.fit(problem.weight.view().row_span(row), "layer"));
    w.emplace_back(problem.weight.row(row), problem.weight.row(row) + in);
  }
  MatrixBuffer<float> q(out, in);
  for (size_t i = 0; i < static_cast<size_t>(in); ++i) {
    for (size_t row = 0; row < w.size(); ++row) {
      const float rounded = rule.decode(rule.round(static_cast<float>(w[row][i]), grids[row]), grids[row]);
      q.row(static_cast<int64_t>(row))[i] = rounded;
      const double error = (w[row][i] - rounded) / left[i][i];
      for (size_t j = i; j < left.size(); ++j) w[row][j] -= error * left[i][j];
    }
    const std::vector<double> pivot = left[i];
    for (size_t r = i + 1; r < left.size(); ++r)
      for (size_t j = i + 1; j < left.size(); ++j) left[r][j] -= pivot[r] * pivot[j] / pivot[i];
  }
  return q;
}

TEST(Gptq, EqualsBrainSurgeryColumnByColumn) {
  const Problem problem(24, 40, 3);
  for (const int bits : {4, 3, 2}) {
    for (const int block : {7, 128}) {
      const auto gptq =
          Registry<Quantizer>::get().make("gptq", settings({{"bits", bits}, {"group", 0}, {"block", block}}));
      const MatrixBuffer<float> found = gptq->quantize(problem.task())->dequantize();
      const MatrixBuffer<float> expected = brain_surgery(problem, bits);
      int64_t different = 0;
      for (int64_t i = 0; i < found.size(); ++i) different += found.data()[i] != expected.data()[i];
      // A value on the edge of two cells may fall either way in float32.
      EXPECT_LE(different, found.size() / 200) << bits << " bits, block " << block;
    }
  }
}

TEST(Gptq, LosesLessThanRoundToNearestOnTheSameGrids) {
  const Problem problem(32, 64, 5);
  for (const bool act_order : {false, true}) {
    const auto gptq = Registry<Quantizer>::get().make(
        "gptq", settings({{"bits", 3}, {"group", 0}, {"act_order", act_order}}));
    const auto nearest = Registry<Quantizer>::get().make("rtn", settings({{"bits", 3}, {"group", 0}}));
    EXPECT_LT(problem.loss(gptq->quantize(problem.task())->dequantize()),
              0.7 * problem.loss(nearest->quantize(problem.task())->dequantize()));
  }
}

TEST(Gptq, WithoutCorrelationsIsRoundToNearest) {
  Problem problem(16, 32, 7);
  for (int64_t i = 0; i < 32; ++i)
    for (int64_t j = 0; j < 32; ++j) problem.moments.row(i)[j] = i == j ? 1.0f + static_cast<float>(i) : 0.0f;
  problem.stats.values["second_moment"].assign(problem.moments.data(), problem.moments.data() + 32 * 32);
  for (const bool act_order : {false, true}) {
    const Settings options = settings({{"bits", 4}, {"group", 8}, {"act_order", act_order}});
    const auto found =
        Registry<Quantizer>::get().make("gptq", options)->quantize(problem.task())->dequantize();
    const auto nearest = Registry<Quantizer>::get().make("rtn", settings({{"bits", 4}, {"group", 8}}));
    const auto expected = nearest->quantize(problem.task())->dequantize();
    for (int64_t i = 0; i < found.size(); ++i) EXPECT_EQ(found.data()[i], expected.data()[i]);
  }
}

TEST(Gptq, AnInputThatIsAlwaysZeroDoesNotMatter) {
  Problem problem(8, 16, 9);
  for (int64_t i = 0; i < 16; ++i) problem.moments.row(i)[5] = problem.moments.row(5)[i] = 0;
  problem.stats.values["second_moment"].assign(problem.moments.data(), problem.moments.data() + 16 * 16);
  const auto gptq = Registry<Quantizer>::get().make("gptq", settings({{"bits", 4}, {"group", 8}}));
  const MatrixBuffer<float> found = gptq->quantize(problem.task())->dequantize();
  for (int64_t row = 0; row < 8; ++row) EXPECT_EQ(found.row(row)[5], 0.0f);
}

TEST(Gptq, ClipSearchLosesLess) {
  const Problem problem(32, 64, 11);
  const auto loss = [&](bool mse) {
    const auto gptq =
        Registry<Quantizer>::get().make("gptq", settings({{"bits", 2}, {"group", 32}, {"mse", mse}}));
    return problem.loss(gptq->quantize(problem.task())->dequantize());
  };
  EXPECT_LT(loss(true), loss(false));
}

TEST(Gptq, NotesTheDampingThatHeldIfItWasNotEnough) {
  Problem problem(4, 8, 13);
  std::map<std::string, double> notes;
  LinearTask task = problem.task();
  task.notes = &notes;
  const auto gptq = Registry<Quantizer>::get().make("gptq", settings({{"damping", 1e-4}}));
  (void)gptq->quantize(task);
  EXPECT_TRUE(notes.empty());
  // Two inputs that are one but for a difference that no float32 statistics could hold.
  for (const size_t i : {size_t{0}, size_t{9}}) problem.stats.values["second_moment"][i] = 1.0f;
  for (const size_t i : {size_t{1}, size_t{8}}) problem.stats.values["second_moment"][i] = 1.01f;
  (void)gptq->quantize(task);
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_GT(notes.at("damping"), 1e-4);
  EXPECT_LE(notes.at("damping"), 1.0);
}

// Inputs of a quantized model beside those of the float model, [tokens, in].
struct Drifted {
  static constexpr int64_t kTokens = 300;
  MatrixBuffer<float> weight, quantized_inputs, float_inputs;
  LayerStats stats;

  Drifted(int64_t out, int64_t in, uint64_t seed)
      : weight(out, in), quantized_inputs(kTokens, in), float_inputs(kTokens, in) {
    Rng rng(seed);
    for (int64_t i = 0; i < weight.size(); ++i) weight.data()[i] = static_cast<float>(rng.normal());
    for (int64_t t = 0; t < kTokens; ++t) {
      const double shared = rng.normal();
      for (int64_t i = 0; i < in; ++i) {
        const double x = rng.normal() + shared;
        float_inputs.row(t)[i] = static_cast<float>(x);
        quantized_inputs.row(t)[i] = static_cast<float>(0.9 * x - 0.1 * shared + 0.2 * rng.normal());
      }
    }
    stats.tokens = kTokens;
    PlainVector<float>&h = stats.values["second_moment"], &drift = stats.values["input_drift"];
    for (int64_t i = 0; i < in; ++i)
      for (int64_t j = 0; j < in; ++j) {
        double moment = 0, product = 0;
        for (int64_t t = 0; t < kTokens; ++t) {
          const double x = quantized_inputs.row(t)[j];
          moment += quantized_inputs.row(t)[i] * x / kTokens;
          product += (float_inputs.row(t)[i] - quantized_inputs.row(t)[i]) * x / kTokens;
        }
        h.push_back(static_cast<float>(moment));
        drift.push_back(static_cast<float>(product));
      }
  }

  MatrixBuffer<float> quantize(const Settings& options) const {
    return Registry<Quantizer>::get()
        .make("gptq", options)
        ->quantize({"layer", weight.view(), stats})
        ->dequantize();
  }

  // ||Q X - W X_float||^2 over the tokens.
  double loss(const MatrixBuffer<float>& q) const {
    double sum = 0;
    for (int64_t t = 0; t < kTokens; ++t)
      for (int64_t row = 0; row < weight.rows(); ++row) {
        double y = 0;
        for (int64_t i = 0; i < weight.cols(); ++i)
          y += static_cast<double>(q.row(row)[i]) * quantized_inputs.row(t)[i] -
               static_cast<double>(weight.row(row)[i]) * float_inputs.row(t)[i];
        sum += y * y;
      }
    return sum;
  }
};

TEST(Gptaq, LosesLessOfTheFloatOutput) {
  const Drifted problem(24, 48, 15);
  for (const bool act_order : {false, true})
    for (const int bits : {3, 4}) {
      Settings options = settings({{"bits", bits}, {"group", 0}, {"act_order", act_order}});
      const double plain = problem.loss(problem.quantize(options));
      options["gptaq"] = {true, "test"};
      const double quarter = problem.loss(problem.quantize(options));
      EXPECT_LT(quarter, 0.97 * plain) << bits;
      options["alpha"] = {1.0, "test"};
      EXPECT_LT(problem.loss(problem.quantize(options)), quarter) << bits;
      options["alpha"] = {0.0, "test"};
      EXPECT_EQ(problem.loss(problem.quantize(options)), plain) << bits;
    }
}

TEST(Gptaq, DoesNotDependOnTheBlockSize) {
  const Drifted problem(16, 40, 17);
  Settings options = settings({{"bits", 4}, {"group", 0}, {"gptaq", true}, {"alpha", 1.0}});
  const MatrixBuffer<float> whole = problem.quantize(options);
  for (const int block : {1, 7, 16}) {
    options["block"] = {block, "test"};
    const MatrixBuffer<float> found = problem.quantize(options);
    int64_t different = 0;
    for (int64_t i = 0; i < found.size(); ++i) different += found.data()[i] != whole.data()[i];
    EXPECT_LE(different, found.size() / 100) << block;
  }
}

// With each column the remaining ones change by what minimizes ||D X_rest - w dx||^2 + damping, found by
// normal equations on the remaining inputs instead of Cholesky factors; rounding is left out at 8 bits.
TEST(Gptaq, GainsAreTheLeastSquaresOfEachColumnsDrift) {
  constexpr int64_t kIn = 12;
  const Drifted problem(6, kIn, 19);
  const PlainVector<float>& h = problem.stats.values.at("second_moment");
  const PlainVector<float>& drift = problem.stats.values.at("input_drift");
  double mean = 0;
  for (size_t i = 0; i < kIn; ++i) mean += h[i * kIn + i] / static_cast<double>(kIn);
  MatrixBuffer<float> expected(6, kIn);
  for (int64_t row = 0; row < 6; ++row) {
    std::vector<double> w(problem.weight.row(row), problem.weight.row(row) + kIn);
    for (size_t q = 0; q + 1 < kIn; ++q) {
      const size_t rest = kIn - q - 1;
      Doubles left(rest, std::vector<double>(rest));
      for (size_t i = 0; i < rest; ++i)
        for (size_t j = 0; j < rest; ++j)
          left[i][j] = h[(q + 1 + i) * kIn + q + 1 + j] + (i == j ? 0.01 * mean : 0.0);
      const Doubles solve = inverse(left);
      for (size_t j = 0; j < rest; ++j)
        for (size_t i = 0; i < rest; ++i) w[q + 1 + j] += w[q] * drift[q * kIn + q + 1 + i] * solve[i][j];
    }
    for (size_t i = 0; i < kIn; ++i) expected.row(row)[i] = static_cast<float>(w[i]);
  }
  const MatrixBuffer<float> found =
      problem.quantize(settings({{"bits", 8}, {"group", 1}, {"gptaq", true}, {"alpha", 1.0}, {"block", 1}}));
  EXPECT_LT(testing::relative_error(found, expected), 2e-3);
  EXPECT_GT(testing::relative_error(found, problem.weight), 0.03);
}

TEST(Gptq, AsksForABlocksLayersInOrderOnlyIfTrueSequential) {
  for (const bool asked : {false, true})
    EXPECT_EQ(Registry<Quantizer>::get()
                  .make("gptq", settings({{"true_sequential", asked}}))
                  ->sequential_in_block(),
              asked);
}

TEST(Gptaq, NeedsTheDriftOnlyIfAsked) {
  const auto needs = [](bool gptaq) {
    return Registry<Quantizer>::get().make("gptq", settings({{"gptaq", gptaq}}))->needs();
  };
  EXPECT_EQ(needs(false), CollectorNames{"second_moment"});
  EXPECT_EQ(needs(true), (CollectorNames{"input_drift", "second_moment"}));
}

TEST(Gptq, RefusesActOrderWithMovingGroups) {
  EXPECT_THROW(
      Registry<Quantizer>::get().make("gptq", settings({{"act_order", true}, {"static_groups", false}})),
      BadInput);
}

}  // namespace
}  // namespace grinqh
