// Rounding that is data against the same rounding written out as a callback, and what is passed on to an
// accelerator.
#include "quant/column_feedback.h"
#include "quant/clip_search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/accelerator.h"
#include "core/dtype.h"
#include "numbers.h"
#include "quant/grading_rule.h"
#include "quant/nested_clusters.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

struct Problem {
  MatrixBuffer<float> weight, moments;
  InverseFactor factor;

  Problem(int64_t out, int64_t in, uint64_t seed)
      : weight(testing::random_matrix(out, in, seed)), moments(in, in) {
    const MatrixBuffer<float> x = testing::random_matrix(2 * in, in, seed + 1);
    for (int64_t i = 0; i < in; ++i)
      for (int64_t j = 0; j < in; ++j) {
        double sum = 0;
        for (int64_t t = 0; t < x.rows(); ++t)
          sum += (x.row(t)[i] + 0.5 * x.row(t)[0]) * (x.row(t)[j] + 0.5 * x.row(t)[0]);
        moments.row(i)[j] = static_cast<float>(sum / static_cast<double>(x.rows()));
      }
    factor = inverse_cholesky(moments, 0.01);
  }
};

template <class T>
bool same(const MatrixBuffer<T>& a, const MatrixBuffer<T>& b) {
  return std::equal(a.data(), a.data() + a.size(), b.data());
}
bool same(const MatrixBuffer<AffineGrid>& a, const MatrixBuffer<AffineGrid>& b) {
  return std::equal(a.data(), a.data() + a.size(), b.data(), [](const AffineGrid& x, const AffineGrid& y) {
    return x.scale == y.scale && x.zero == y.zero;
  });
}

// round() and fit() as they are defined, without the functions under test.
float code_by_hand(float value, const AffineGrid& grid, int bits) {
  const float code = std::nearbyint(value / from_half(grid.scale)) + static_cast<float>(grid.zero);
  return std::min(std::max(code, 0.0f), static_cast<float>((1 << bits) - 1));
}
AffineGrid grid_by_hand(std::span<const float> group, int bits) {
  const float low = std::min(std::ranges::min(group), 0.0f), high = std::max(std::ranges::max(group), 0.0f);
  const auto top = static_cast<float>((1 << bits) - 1);
  const uint16_t scale = to_half((high - low) / top);
  return {scale, static_cast<uint8_t>(std::clamp(std::nearbyint(-low / from_half(scale)), 0.0f, top))};
}

struct AffineCase {
  int64_t out, in, group, block;
  bool fit, permuted, drift;
};

class AffineFeedback : public ::testing::TestWithParam<AffineCase> {};

TEST_P(AffineFeedback, GivesTheCodesOfTheCallback) {
  const auto [out, in, group, block, fit, permuted, drifts] = GetParam();
  constexpr int kBits = 3;
  const Problem problem(out, in, 11);
  const int64_t groups = (in + group - 1) / group;
  std::vector<int64_t> inputs(static_cast<size_t>(in));
  for (int64_t i = 0; i < in; ++i) inputs[static_cast<size_t>(i)] = permuted ? (i * 7 + 3) % in : i;
  auto drift = MatrixBuffer<float>::zeroed(in, in);
  for (int64_t i = 0; i < in; ++i)
    for (int64_t j = i + 1; j < in; ++j) drift.row(i)[j] = 0.01f * static_cast<float>((i + 3 * j) % 5);
  FeedbackOptions options{block};
  if (drifts) options.drift = drift;

  MatrixBuffer<AffineGrid> given(out, groups);
  for (int64_t r = 0; r < out; ++r)
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t begin = g * group, end = std::min(begin + group, in);
      given.row(r)[g] = grid_by_hand(problem.weight.view().row_span(r).subspan(
                                         static_cast<size_t>(begin), static_cast<size_t>(end - begin)),
                                     kBits);
    }
  MatrixBuffer<AffineGrid> grids(out, groups), expected_grids(out, groups);
  std::copy_n(given.data(), given.size(), grids.data());
  std::copy_n(given.data(), given.size(), expected_grids.data());
  MatrixBuffer<uint8_t> codes(out, in), expected(out, in);

  const auto callback = [&](const ColumnStep& step, std::span<float> error) {
    const int64_t input = inputs[static_cast<size_t>(step.column)], g = input / group;
    for (size_t r = 0; r < error.size(); ++r) {
      const auto slice_row = static_cast<int64_t>(r);
      const int64_t row = step.first_row + slice_row;
      if (fit && input % group == 0) {
        std::vector<float> values;
        for (int64_t i = input; i < std::min(input + group, in); ++i)
          values.push_back(step.block(i, slice_row));
        expected_grids.row(row)[g] = grid_by_hand(values, kBits);
      }
      const AffineGrid& grid = expected_grids.row(row)[g];
      const float value = step.current(step.column, slice_row), code = code_by_hand(value, grid, kBits);
      expected.row(row)[input] = static_cast<uint8_t>(code);
      error[r] = value - from_half(grid.scale) * (code - static_cast<float>(grid.zero));
    }
  };
  round_with_feedback(problem.weight, problem.factor, options, HostRounding{callback});
  round_with_feedback(problem.weight, problem.factor, options,
                      AffineRounding{{kBits, false},
                                     group,
                                     fit,
                                     inputs.empty() || !permuted ? std::span<const int64_t>{}
                                                                 : std::span<const int64_t>(inputs),
                                     "layer",
                                     codes,
                                     grids});
  EXPECT_TRUE(same(codes, expected));
  EXPECT_TRUE(same(grids, expected_grids));
  EXPECT_EQ(same(grids, given), !fit || block >= in) << "fitted grids see the feedback of earlier blocks";
}

INSTANTIATE_TEST_SUITE_P(Shapes, AffineFeedback,
                         ::testing::Values(AffineCase{70, 96, 32, 32, true, false, false},
                                           AffineCase{5, 101, 32, 128, true, false, true},
                                           AffineCase{130, 60, 25, 16, true, false, false},
                                           AffineCase{66, 95, 95, 20, false, false, false},
                                           AffineCase{64, 101, 16, 24, false, true, true}));

TEST(NestedFeedback, GivesTheCodesOfTheCallback) {
  constexpr int64_t kOut = 75, kIn = 90;
  const Problem problem(kOut, kIn, 3);
  const MatrixBuffer<float> positions = testing::random_matrix(3, 256, 5),
                            shares = testing::random_matrix(3, kIn, 6);
  for (const bool along_inputs : {false, true}) {
    NestedRounding rounding;
    if (along_inputs) {
      rounding.row_stride = 6, rounding.grid_columns = 16, rounding.column_stride = 1;
    } else {
      rounding.grid_rows = 32, rounding.row_stride = 1, rounding.column_stride = 3;
    }
    std::vector<uint16_t> scales, minima;
    for (int i = 0; i < 500; ++i) {
      scales.push_back(to_half(0.02f + 0.0001f * static_cast<float>(i % 37)));
      minima.push_back(to_half(-3.0f + 0.01f * static_cast<float>(i % 23)));
    }
    MatrixBuffer<uint8_t> codes(kOut, kIn), expected(kOut, kIn);
    MatrixBuffer<float> compensated(kOut, kIn), rounded(kOut, kIn);
    rounding.scales = scales;
    rounding.minima = minima;
    rounding.positions = positions;
    rounding.shares = shares;
    rounding.codes = codes;
    rounding.compensated = compensated;
    const auto callback = [&](const ColumnStep& step, std::span<float> error) {
      for (size_t r = 0; r < error.size(); ++r) {
        const int64_t row = step.first_row + static_cast<int64_t>(r), i = step.column;
        const auto grid = static_cast<size_t>(along_inputs ? row * 6 + i / 16 : i * 3 + row / 32);
        const float scale = from_half(scales[grid]), minimum = from_half(minima[grid]);
        const float weight = step.current(i, static_cast<int64_t>(r));
        const float code = std::clamp(std::floor((weight - minimum) / scale), 0.0f, 255.0f);
        expected.row(row)[i] = static_cast<uint8_t>(code);
        rounded.row(row)[i] = weight;
        float decoded = 0;
        for (int64_t k = 0; k < 3; ++k) decoded += shares.row(k)[i] * positions.row(k)[expected.row(row)[i]];
        error[r] = weight - minimum - scale * decoded;
      }
    };
    round_with_feedback(problem.weight, problem.factor, {20}, HostRounding{callback});
    round_with_feedback(problem.weight, problem.factor, {20}, rounding);
    EXPECT_TRUE(same(codes, expected)) << along_inputs;
    EXPECT_TRUE(same(compensated, rounded)) << along_inputs;

    const std::vector<Level> levels{0, 2, 3};
    std::vector<PrefixSums> sums = table_sums(3, levels, shares), of_rounded = sums;
    NestedRounding summing = rounding;
    summing.compensated = {};
    summing.sums = sums;
    round_with_feedback(problem.weight, problem.factor, {20}, summing);
    sum_prefixes(rounded, rounding, of_rounded);
    for (size_t k = 0; k < sums.size(); ++k) {
      EXPECT_EQ(sums[k].weight, of_rounded[k].weight) << along_inputs << " level " << sums[k].level;
      EXPECT_EQ(sums[k].position, of_rounded[k].position) << along_inputs << " level " << sums[k].level;
    }
  }
}

// Notes what it is asked for; computes on the CPU.
class Listener final : public Accelerator {
 public:
  std::vector<std::string> asked;
  std::string name() const override { return "listener"; }
  InverseFactor inverse_cholesky(Matrix<const float> h, double damping) override {
    asked.push_back("inverse_cholesky");
    const AcceleratorScope none(nullptr);
    return grinqh::inverse_cholesky(h, damping);
  }
  SymmetricEigen symmetric_eigen(Matrix<const double> a) override {
    asked.push_back("symmetric_eigen");
    const AcceleratorScope none(nullptr);
    return grinqh::symmetric_eigen(a);
  }
  void multiply(const Factor& a, const Factor& b, Matrix<float> y, Output) override {
    asked.push_back("multiply");
    EXPECT_EQ(a.cols(), b.rows());
    EXPECT_EQ(y.rows, a.rows());
    EXPECT_EQ(y.cols, b.cols());
    std::fill_n(y.data, y.rows * y.cols, 7.0f);
  }
  void search_clips(const ClipTask&) override { asked.push_back("search_clips"); }
  void round_with_feedback(const FeedbackTask&) override { asked.push_back("round_with_feedback"); }
  void cluster_rows(const ClusterTask& task) override {
    asked.push_back("cluster_rows");
    for (int64_t r = 0; r < task.codes.rows; ++r) std::ranges::fill(task.codes.row_span(r), uint8_t{3});
    for (MatrixBuffer<uint16_t>& table : task.tables)
      std::fill_n(table.data(), table.size(), uint16_t{0x3c00});
  }
  void level_errors(const LevelTask& task) override {
    asked.push_back("level_errors");
    for (int64_t k = 0; k < task.errors.rows; ++k) std::ranges::fill(task.errors.row_span(k), 5.0);
  }
  void sum_prefixes(const PrefixTask& task) override {
    asked.push_back("sum_prefixes");
    for (PrefixSums& each : task.sums) std::ranges::fill(each.weight, 2.0);
  }
  void nested_errors(const NestedErrorTask& task) override {
    asked.push_back("nested_errors");
    for (int64_t k = 0; k < task.errors.rows; ++k) std::ranges::fill(task.errors.row_span(k), 6.0);
  }
};

TEST(Accelerator, IsAskedForWhatIsHeavyWhileItIsInstalled) {
  const Problem problem(8, 16, 1);
  MatrixBuffer<uint8_t> codes(8, 16);
  MatrixBuffer<AffineGrid> grids(8, 1);
  const AffineRounding affine{{4, false}, 16, true, {}, "layer", codes, grids};
  std::map<std::string, double> notes;
  const HostRounding by_callback{
      [](const ColumnStep&, std::span<float> error) { std::ranges::fill(error, 0.0f); }, &notes};
  const auto listener = std::make_shared<Listener>();
  {
    const AcceleratorScope scope(listener);
    EXPECT_EQ(inverse_cholesky(problem.moments, 0.01).damping, 0.01);
    EXPECT_EQ(symmetric_eigen(MatrixBuffer<double>::zeroed(3, 3).view()).values.size(), 3u);
    round_with_feedback(problem.weight, problem.factor, {}, affine);
    EXPECT_TRUE(notes.empty());
    round_with_feedback(problem.weight, problem.factor, {}, by_callback);
    EXPECT_EQ(notes, (std::map<std::string, double>{{"feedback_on_host", 1}}));
    MatrixBuffer<float> shares(8, 1);
    search_clips({"layer", problem.weight, problem.weight, 4, 16, 10, 20, shares});
    const LayerStats nothing;
    const LinearTask task{"layer", problem.weight, nothing};
    const Sensitivity same("none", task);
    EXPECT_EQ(cluster_rows("layer", problem.weight, same, {}, 3, 4).codes.row(7)[15], 3) << "its codes";
    cluster_rows("layer", problem.weight, same, {}, 5, 6);  // more clusters than values: done here
    const auto rounded = Registry<Quantizer>::get().make("rtn", {{"group", {0, ""}}})->quantize(task);
    EXPECT_EQ(level_errors(problem.weight, *rounded, rounded->levels()).row(0)[15], 5.0) << "its errors";
    const std::vector<Level> levels{0, 2};
    std::vector<PrefixSums> sums = table_sums(2, levels, {});
    sum_prefixes(problem.weight, {}, sums);
    EXPECT_EQ(sums.front().weight, std::vector<double>(4, 2.0));
    const MatrixBuffer<float> positions = nested_positions(levels, {});
    EXPECT_EQ(nested_errors(problem.weight, {}, levels, positions).row(1)[15], 6.0);
  }
  const std::vector<std::string> expected{"inverse_cholesky", "symmetric_eigen", "round_with_feedback",
                                          "search_clips",     "cluster_rows",    "level_errors",
                                          "sum_prefixes",     "nested_errors"};
  EXPECT_EQ(listener->asked, expected);
  notes.clear();
  round_with_feedback(problem.weight, problem.factor, {}, affine);
  round_with_feedback(problem.weight, problem.factor, {}, by_callback);
  EXPECT_EQ(listener->asked, expected) << "no longer installed";
  EXPECT_TRUE(notes.empty());
  EXPECT_EQ(accelerator(), nullptr);
}

TEST(Accelerator, GetsLargeProductsOnly) {
  const auto listener = std::make_shared<Listener>();
  const AcceleratorScope scope(listener);
  const MatrixBuffer<float> small = testing::random_matrix(4, 4, 1);
  MatrixBuffer<float> y(4, 4);
  product_nt(small, small, y);
  product_nn(small, small, y);
  product_tn(small, small, y);
  EXPECT_TRUE(listener->asked.empty());
  const auto large = MatrixBuffer<float>::zeroed(1400, 1400), wide = MatrixBuffer<float>::zeroed(1400, 1300);
  MatrixBuffer<float> to(1400, 1400), to_wide(1400, 1300), narrow(1300, 1400);
  product_nt(large, large, to);
  product_nn(large, wide, to_wide);
  product_tn(wide, large, narrow);
  EXPECT_EQ(listener->asked.size(), 3u);
  EXPECT_EQ(to_wide.row(1399)[1299], 7.0f);
  matmul_nt(small, small, y);  // products of a forward pass never go there
  EXPECT_EQ(listener->asked.size(), 3u);
}

}  // namespace
}  // namespace grinqh
