// The accelerator on a GPU against the functions that it stands for on the CPU.
#include "cuda/accelerator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/half.h"
#include "cuda/gpu.h"
#include "nested_grids.h"
#include "numbers.h"
#include "quant/clip_search.h"
#include "quant/column_feedback.h"
#include "quant/grading_rule.h"
#include "quant/nested_clusters.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

// Second moments of inputs that share something, so that feedback matters.
MatrixBuffer<float> moments_of(int64_t in, uint64_t seed) {
  MatrixBuffer<float> h(in, in);
  const MatrixBuffer<float> shared = testing::random_matrix(6, in, seed);
  const std::vector<float> own = testing::random_vector(in, seed + 1);
  for (int64_t i = 0; i < in; ++i)
    for (int64_t j = 0; j < in; ++j) {
      double sum = i == j ? 0.2 + std::pow(own[static_cast<size_t>(i)], 2) : 0.0;
      for (int64_t k = 0; k < shared.rows(); ++k)
        sum += 0.3 * static_cast<double>(shared.row(k)[i]) * static_cast<double>(shared.row(k)[j]);
      h.row(i)[j] = static_cast<float>(sum);
    }
  return h;
}

// What a call is refused with; empty if it is not.
template <class Call>
std::string refusal_of(const Call& call) {
  try {
    call();
  } catch (const BadInput& refusal) {
    return refusal.what();
  }
  return "";
}

struct AcceleratorOnGpu : ::testing::Test {
  std::shared_ptr<Accelerator> gpu;
  void SetUp() override {
    if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
    gpu = cuda::make_accelerator(0);
  }
};

TEST_F(AcceleratorOnGpu, FactorsTheInverse) {
  for (const int64_t n : {1, 2, 127, 512, 768, 1408, 1531}) {
    const MatrixBuffer<float> h = moments_of(n, 3);
    const InverseFactor found = gpu->inverse_cholesky(h, 0.01), expected = inverse_cholesky(h, 0.01);
    EXPECT_LE(testing::relative_error(found.upper, expected.upper), 1e-6) << n;
    EXPECT_EQ(found.damping, 0.01);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < i; ++j) ASSERT_EQ(found.upper.row(i)[j], 0.0f) << i << " " << j;
  }
}

TEST_F(AcceleratorOnGpu, ReadsMatricesWithAStride) {
  const MatrixBuffer<float> large = moments_of(200, 5);
  const Matrix<const float> h = large.view().rows_between(40, 140).cols_between(40, 140);
  EXPECT_LE(testing::relative_error(gpu->inverse_cholesky(h, 0.01).upper, inverse_cholesky(h, 0.01).upper),
            1e-6);
}

TEST_F(AcceleratorOnGpu, DampsMoreWhereTheFactorizationFails) {
  MatrixBuffer<float> h = moments_of(300, 7);
  const float whole = h.row(3)[3];
  for (const float left : {0.4f, 0.3f, 0.07f}) {  // of a channel that correlates with the others
    h.row(3)[3] = left * whole;
    const InverseFactor found = gpu->inverse_cholesky(h, 0.0001), expected = inverse_cholesky(h, 0.0001);
    EXPECT_EQ(found.damping, expected.damping) << left;
    EXPECT_GT(found.damping, 0.0001) << left;
  }
  h.row(3)[3] = -1000.0f;
  EXPECT_THROW(gpu->inverse_cholesky(h, 0.001), Error);

  MatrixBuffer<float> singular(64, 64);
  std::fill_n(singular.data(), singular.size(), 1.0f);
  EXPECT_EQ(gpu->inverse_cholesky(singular, 0).damping, 1e-6);
}

TEST_F(AcceleratorOnGpu, FindsEigenvectors) {
  for (const int64_t n : {1, 65, 300}) {
    const MatrixBuffer<float> h = moments_of(n, 9);
    MatrixBuffer<double> a(n, n);
    std::copy_n(h.data(), h.size(), a.data());
    const SymmetricEigen found = gpu->symmetric_eigen(a.view()), expected = symmetric_eigen(a.view());
    EXPECT_LE(testing::relative_error(std::span<const double>(found.values),
                                      std::span<const double>(expected.values)),
              1e-12);
    EXPECT_LE(testing::relative_error(found.vectors, expected.vectors), 1e-8) << n;
  }
}

TEST_F(AcceleratorOnGpu, Multiplies) {
  const MatrixBuffer<float> x = testing::random_matrix(77, 130, 1), w = testing::random_matrix(93, 130, 2);
  const MatrixBuffer<double> expected = testing::product_nt(x, w);
  const auto transposed = [](const MatrixBuffer<float>& m) {
    MatrixBuffer<float> t(m.cols(), m.rows());
    for (int64_t i = 0; i < t.rows(); ++i)
      for (int64_t j = 0; j < t.cols(); ++j) t.row(i)[j] = m.row(j)[i];
    return t;
  };
  const MatrixBuffer<float> xt = transposed(x), wt = transposed(w);
  MatrixBuffer<float> wide(77, 100);  // y has a stride
  for (const auto& [a, b] : {std::pair<Factor, Factor>{{x}, {w, true}},
                             {{x}, {wt}},
                             {{xt, true}, {wt}},
                             {{xt, true}, {w, true}}}) {
    std::fill_n(wide.data(), wide.size(), NAN);
    const Matrix<float> y = wide.view().cols_between(3, 96);
    gpu->multiply(a, b, y, Output::overwrite);
    gpu->multiply(a, b, y, Output::add);
    MatrixBuffer<float> half(77, 93);
    for (int64_t i = 0; i < 77; ++i)
      for (int64_t j = 0; j < 93; ++j) half.row(i)[j] = 0.5f * y(i, j);
    EXPECT_LE(testing::relative_error(half, expected), 1e-6);
    EXPECT_TRUE(std::isnan(wide.row(5)[2]) && std::isnan(wide.row(5)[96]));
  }
}

template <class T>
double share_of_equal(const MatrixBuffer<T>& a, const MatrixBuffer<T>& b) {
  int64_t equal = 0;
  for (int64_t i = 0; i < a.size(); ++i) {
    if constexpr (std::is_same_v<T, AffineGrid>)
      equal += a.data()[i].scale == b.data()[i].scale && a.data()[i].zero == b.data()[i].zero;
    else
      equal += a.data()[i] == b.data()[i];
  }
  return static_cast<double>(equal) / static_cast<double>(a.size());
}

// tr(D H D^T): what the layer's output is off by.
double output_error(const MatrixBuffer<float>& d, const MatrixBuffer<float>& h) {
  const MatrixBuffer<double> product = testing::product_nt(d, h);
  double sum = 0;
  for (int64_t i = 0; i < d.size(); ++i) sum += product.data()[i] * static_cast<double>(d.data()[i]);
  return sum;
}

struct AffineCase {
  int64_t out, in, group, block;
  int bits;
  bool symmetric, mse, fit, permuted, drift;
};

struct AffineOnGpu : ::testing::TestWithParam<AffineCase> {};

TEST_P(AffineOnGpu, GivesTheCodesOfTheCpu) {
  if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  const AffineCase c = GetParam();
  const auto gpu = cuda::make_accelerator(0);
  const MatrixBuffer<float> weight = testing::random_matrix(c.out, c.in, 21, 0.05), h = moments_of(c.in, 22);
  const InverseFactor factor = inverse_cholesky(h, 0.01);
  std::vector<int64_t> inputs;
  for (int64_t i = 0; c.permuted && i < c.in; ++i) inputs.push_back((i * 5 + 3) % c.in);
  MatrixBuffer<float> drift;
  if (c.drift) {
    const MatrixBuffer<float> a = testing::random_matrix(c.in, c.in, 23, 0.02);
    drift = drift_feedback(a, factor, 0.25);
  }
  ClipSearch clip;
  clip.mse = c.mse;
  const AffineGridRule rule{c.bits, c.symmetric, clip};
  const int64_t groups = (c.in + c.group - 1) / c.group;

  struct Result {
    MatrixBuffer<uint8_t> codes;
    MatrixBuffer<AffineGrid> grids;
    MatrixBuffer<float> off;
  };
  const auto round = [&](bool on_gpu) {
    Result result{MatrixBuffer<uint8_t>(c.out, c.in), MatrixBuffer<AffineGrid>(c.out, groups),
                  MatrixBuffer<float>(c.out, c.in)};
    std::fill_n(result.codes.data(), result.codes.size(), uint8_t{255});
    std::fill_n(result.grids.data(), result.grids.size(), AffineGrid{0, 255});
    for (int64_t r = 0; r < c.out && !c.fit; ++r)
      for (int64_t g = 0; g < groups; ++g)
        result.grids.row(r)[g] =
            rule.fit(std::span(weight.row(r) + g * c.group,
                               static_cast<size_t>(std::min(c.group, c.in - g * c.group))),
                     "layer");
    const ColumnRounding rounding =
        AffineRounding{rule, c.group, c.fit, inputs, "layer", result.codes, result.grids};
    const FeedbackOptions options{c.block, drift};
    if (on_gpu)
      gpu->round_with_feedback({weight, factor, options, rounding});
    else
      round_with_feedback(weight, factor, options, rounding);
    for (int64_t r = 0; r < c.out; ++r)
      for (int64_t i = 0; i < c.in; ++i) {
        const int64_t input = inputs.empty() ? i : inputs[static_cast<size_t>(i)];
        result.off.row(r)[i] =
            weight.row(r)[i] - rule.decode(result.codes.row(r)[input], result.grids.row(r)[input / c.group]);
      }
    return result;
  };
  const Result found = round(true), expected = round(false);
  EXPECT_GE(share_of_equal(found.codes, expected.codes), 0.999);
  EXPECT_EQ(share_of_equal(found.codes, round(true).codes), 1.0) << "the same in every run";
  EXPECT_GE(share_of_equal(found.grids, expected.grids), 0.999);
  const double error = output_error(expected.off, h);
  EXPECT_NEAR(output_error(found.off, h), error, 1e-3 * error);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, AffineOnGpu,
    ::testing::Values(AffineCase{300, 512, 128, 128, 4, false, false, true, false, false},
                      AffineCase{257, 1408, 64, 128, 3, false, false, true, false, true},
                      AffineCase{100, 768, 100, 48, 3, true, false, true, false, false},
                      AffineCase{96, 768, 128, 300, 4, false, false, true, false, false},
                      AffineCase{33, 333, 333, 128, 2, false, false, true, false, false},
                      AffineCase{129, 509, 32, 128, 4, false, false, false, true, false},
                      AffineCase{64, 640, 128, 128, 2, false, true, true, false, false},
                      AffineCase{40, 251, 16, 1, 4, false, false, true, false, false},
                      AffineCase{65, 1411, 128, 128, 4, true, false, false, true, true},
                      AffineCase{1, 1, 1, 128, 4, false, false, true, false, false},
                      // More rows than are taken at once.
                      AffineCase{(3 << 17) + 77, 8, 4, 128, 4, false, false, true, false, false}));

TEST_F(AcceleratorOnGpu, RefusesScalesLikeTheCpu) {
  const int64_t out = 20, in = 64;
  const MatrixBuffer<float> weight = testing::random_matrix(out, in, 1);
  weight.row(7)[20] = 3e6f;
  const InverseFactor factor = inverse_cholesky(moments_of(in, 2), 0.01);
  MatrixBuffer<uint8_t> codes(out, in);
  MatrixBuffer<AffineGrid> grids(out, 2);
  const ColumnRounding rounding =
      AffineRounding{{4, false}, 32, true, {}, "model.layers.3.mlp.up_proj", codes, grids};
  const std::string expected = refusal_of([&] { round_with_feedback(weight, factor, {}, rounding); }),
                    found = refusal_of([&] {
                      gpu->round_with_feedback({weight, factor, {}, rounding});
                    });
  EXPECT_NE(expected, "");
  EXPECT_EQ(found, expected);
}

struct ClipCase {
  int64_t out, in, tokens, group;
  int bits;
};

struct ClipsOnGpu : ::testing::TestWithParam<ClipCase> {};

TEST_P(ClipsOnGpu, AreTheCpus) {
  if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  const ClipCase c = GetParam();
  const auto gpu = cuda::make_accelerator(0);
  // Weights with long tails; inputs that share something large.
  MatrixBuffer<float> weight = testing::random_matrix(c.out, c.in, 41);
  for (int64_t i = 0; i < weight.size(); ++i) weight.data()[i] = std::pow(weight.data()[i], 3.0f);
  MatrixBuffer<float> x = testing::random_matrix(c.tokens, c.in, 42);
  const std::vector<float> shared = testing::random_vector(c.tokens, 43);
  for (int64_t t = 0; t < c.tokens; ++t)
    for (int64_t i = 0; i < c.in; ++i) x.row(t)[i] += 5.0f * shared[static_cast<size_t>(t)];
  const int64_t groups = (c.in + c.group - 1) / c.group;
  MatrixBuffer<float> expected(c.out, groups), found(c.out, groups), again(c.out, groups);
  const auto task = [&](const MatrixBuffer<float>& shares) {
    return ClipTask{"layer", weight, x, c.bits, c.group, 10, 20, shares};
  };
  search_clips(task(expected));
  for (const MatrixBuffer<float>* shares : {&found, &again}) {
    std::fill_n(shares->data(), shares->size(), NAN);
    gpu->search_clips(task(*shares));
  }
  EXPECT_GE(share_of_equal(found, expected), 0.998) << "up to sums that are equal but for their rounding";
  EXPECT_EQ(share_of_equal(found, again), 1.0) << "the same in every run";
  EXPECT_TRUE(
      std::any_of(expected.data(), expected.data() + expected.size(), [](float share) { return share < 1; }));
}

INSTANTIATE_TEST_SUITE_P(Shapes, ClipsOnGpu,
                         ::testing::Values(ClipCase{300, 512, 200, 128, 4}, ClipCase{65, 333, 77, 64, 3},
                                           ClipCase{129, 250, 512, 250, 3}, ClipCase{40, 51, 9, 16, 2},
                                           // More rows than are taken at once.
                                           ClipCase{4200, 256, 512, 2, 3}));

TEST_F(AcceleratorOnGpu, RefusesScalesOfClippedGroupsLikeTheCpu) {
  MatrixBuffer<float> weight = testing::random_matrix(20, 64, 1), shares(20, 2);
  weight.row(7)[20] = 3e6f;
  const MatrixBuffer<float> x = testing::random_matrix(30, 64, 2);
  const ClipTask task{"model.layers.3.mlp.up_proj", weight, x, 4, 32, 1, 20, shares};
  const std::string expected = refusal_of([&] { search_clips(task); }),
                    found = refusal_of([&] { gpu->search_clips(task); });
  EXPECT_NE(expected, "");
  EXPECT_EQ(found, expected);
}

struct NestedCase {
  int64_t out, in, group, block;
  bool along_inputs;
};

struct NestedOnGpu : ::testing::TestWithParam<NestedCase> {};

TEST_P(NestedOnGpu, GivesTheCodesOfTheCpu) {
  if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  const auto [out, in, group, block, along_inputs] = GetParam();
  const auto gpu = cuda::make_accelerator(0);
  const MatrixBuffer<float> weight = testing::random_matrix(out, in, 31, 0.05), h = moments_of(in, 32);
  const InverseFactor factor = inverse_cholesky(h, 0.01);
  const testing::OwnedGrids grids(out, in, group, along_inputs, 0.4f);
  // Levels 0, 2, 4 and 8 by the middles of their cells, served by turns.
  auto positions = MatrixBuffer<float>::zeroed(4, 256), shares = MatrixBuffer<float>::zeroed(4, in);
  for (int64_t k = 1; k < 4; ++k)
    for (int code = 0; code < 256; ++code) {
      const int cell = 256 >> (1 << k);
      positions.row(k)[code] = (static_cast<float>(code / cell) + 0.5f) * static_cast<float>(cell);
    }
  for (int64_t i = 0; i < in; ++i) {
    shares.row(1)[i] = 0.1f * static_cast<float>(i % 7);
    shares.row(2)[i] = 0.7f * (1 - shares.row(1)[i]);
    shares.row(3)[i] = 1 - shares.row(1)[i] - shares.row(2)[i];
  }
  const std::vector<Level> levels{0, 2, 4, 8};
  struct Result {
    MatrixBuffer<uint8_t> codes;
    MatrixBuffer<float> compensated, off;
    std::vector<PrefixSums> sums;
  };
  const auto round = [&](bool on_gpu) {
    Result result{MatrixBuffer<uint8_t>(out, in), MatrixBuffer<float>(out, in), MatrixBuffer<float>(out, in),
                  table_sums(4, levels, shares)};
    std::fill_n(result.codes.data(), result.codes.size(), uint8_t{77});
    std::fill_n(result.compensated.data(), result.compensated.size(), NAN);
    const ColumnRounding as_any =
        NestedRounding{grids.grids, positions, shares, result.codes, result.compensated, result.sums};
    if (on_gpu)
      gpu->round_with_feedback({weight, factor, {block}, as_any});
    else
      round_with_feedback(weight, factor, {block}, as_any);
    for (int64_t r = 0; r < out; ++r)
      for (int64_t i = 0; i < in; ++i) {
        float position = 0;
        for (int64_t k = 0; k < 4; ++k)
          position += shares.row(k)[i] * positions.row(k)[result.codes.row(r)[i]];
        result.off.row(r)[i] = weight.row(r)[i] - grids.minimum(r, i) - grids.scale(r, i) * position;
      }
    return result;
  };
  const Result found = round(true), expected = round(false);
  EXPECT_GE(share_of_equal(found.codes, expected.codes), 0.999);
  EXPECT_EQ(share_of_equal(found.codes, round(true).codes), 1.0) << "the same in every run";
  EXPECT_LE(testing::relative_error(found.compensated, expected.compensated), 1e-3);
  const double error = output_error(expected.off, h);
  EXPECT_NEAR(output_error(found.off, h), error, 1e-3 * error);

  std::vector<PrefixSums> of_found = table_sums(4, levels, shares);
  sum_prefixes(found.compensated, grids.grids, of_found);
  testing::expect_same_sums(found.sums, of_found);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, NestedOnGpu,
    ::testing::Values(NestedCase{300, 512, 128, 128, false}, NestedCase{129, 1408, 128, 128, false},
                      NestedCase{77, 768, 48, 128, true}, NestedCase{61, 333, 333, 50, true},
                      NestedCase{70, 513, 70, 200, false}, NestedCase{(3 << 17) + 77, 8, 100, 128, false}));

// Rows with ties, and weights of which some or all are zero.
struct RowsToCluster {
  MatrixBuffer<float> values, weights;
  RowsToCluster(int64_t rows, int64_t width)
      : values(testing::random_matrix(rows, width, 100)), weights(testing::random_matrix(rows, width, 900)) {
    for (int64_t kind = 0; kind < rows; ++kind)
      for (int64_t i = 0; i < width; ++i) {
        float &value = values.row(kind)[i], &weight = weights.row(kind)[i];
        weight *= weight;
        if (kind % 4 == 1) value = std::round(4 * value) / 4;
        if (kind % 4 == 2 && i % 3 == 0) weight = 0;
        if (kind == 7) weight = 0;
      }
  }
};

LayerStats sensitivity_of(const MatrixBuffer<float>& weights) {
  LayerStats stats;
  stats.values["fisher_diagonal"].assign(weights.data(), weights.data() + weights.size());
  return stats;
}

// Where two cuts gain the same but for the rounding of sums, either may be found.
void expect_same_clusters(const NestedClusters& found, const NestedClusters& expected,
                          const std::string& what) {
  EXPECT_GE(share_of_equal(found.codes, expected.codes), 0.999) << what;
  for (size_t level = 0; level < expected.tables.size(); ++level)
    EXPECT_GE(share_of_equal(found.tables[level], expected.tables[level]), 0.99) << what << " " << level;
}

TEST_F(AcceleratorOnGpu, ClustersRowsAsTheCpuDoes) {
  for (const int64_t width : {16, 333, 4096, 14336})
    for (const auto& [seed, parent] : {std::pair{1, 4}, {3, 8}, {4, 4}}) {
      const RowsToCluster rows(33, width);
      const LayerStats stats = sensitivity_of(rows.weights);
      for (const bool shared : {false, true}) {
        const LinearTask task{"layer", rows.values, stats};
        const Sensitivity sensitivity(shared ? "none" : "fisher", task);
        for (const double share : {0.0, 0.02}) {
          if (width < 100 && share > 0) continue;
          const Outliers outliers = select_outliers(rows.values, sensitivity, {0, share});
          const NestedClusters expected =
              cluster_rows("layer", rows.values, sensitivity, outliers, seed, parent);
          const AcceleratorScope scope(gpu);
          expect_same_clusters(cluster_rows("layer", rows.values, sensitivity, outliers, seed, parent),
                               expected, fmt::format("{} {} {} {} {}", width, seed, parent, shared, share));
        }
      }
    }
}

TEST_F(AcceleratorOnGpu, RefusesCentroidsBeyondFloat16AsTheCpuDoes) {
  RowsToCluster rows(3, 64);
  rows.values.row(1)[3] = 1e6f;
  const LayerStats stats;
  const Sensitivity sensitivity("none", {"layer", rows.values, stats});
  const auto refused = [&] {
    return refusal_of([&] { cluster_rows("layer", rows.values, sensitivity, {}, 3, 4); });
  };
  const std::string expected = refused();
  EXPECT_NE(expected, "");
  const AcceleratorScope scope(gpu);
  EXPECT_EQ(refused(), expected);
}

TEST_F(AcceleratorOnGpu, AddsUpTheErrorsOfLevels) {
  const MatrixBuffer<float> weight = testing::random_matrix(150, 300, 3);
  std::vector<float> counts = testing::random_vector(150, 4);
  for (float& count : counts) count *= count;
  const LayerStats stats;
  const auto layer =
      Registry<Quantizer>::get()
          .make("grinqh", {{"feedback_bits", {0, ""}}, {"basis", {"identity", ""}}, {"group", {32, ""}}})
          ->quantize({"layer", weight, stats});
  const std::vector<Level> levels{0, 2, 8};
  for (const bool counted : {false, true}) {
    const std::span<const float> rows = counted ? std::span<const float>(counts) : std::span<const float>();
    const MatrixBuffer<double> expected = level_errors(weight, *layer, levels, rows);
    const AcceleratorScope scope(gpu);
    const MatrixBuffer<double> found = level_errors(weight, *layer, levels, rows);
    for (int64_t i = 0; i < expected.size(); ++i)
      EXPECT_NEAR(found.data()[i], expected.data()[i], 1e-12 * std::abs(expected.data()[i]) + 1e-15) << i;
  }
}

}  // namespace
}  // namespace grinqh
