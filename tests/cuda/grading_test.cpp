// Levels of channels on the device: exactly what the CPU chooses.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "cuda/gpu.h"
#include "cuda/grading.h"
#include "cuda/typed_matrix.h"
#include "quant/grading.h"

namespace grinqh {
namespace {

using cuda::GradingRule;
using cuda::Type;
using testing::random_of;
using testing::TypedMatrix;

struct Case {
  Type type;
  int64_t rows, in;
  std::vector<Level> levels;
  bool shared = false;
  double budget = -1;
};

class CudaGrading : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  }

  // [steps, in]: ascending in the step, some equal to magnitudes that occur and some infinite.
  static MatrixBuffer<float> thresholds_for(const Case& c, const MatrixBuffer<float>& x) {
    const auto steps = static_cast<int64_t>(c.levels.size()) - 1;
    MatrixBuffer<float> thresholds(steps, c.in);
    const auto spread = random_of(Type::f32, 1, c.in, 9);
    for (int64_t i = 0; i < c.in; ++i)
      for (int64_t j = 0; j < steps; ++j) {
        const int64_t column = c.shared ? 0 : i;
        thresholds.row(j)[i] = static_cast<float>(j + 1) * (0.1f + 0.5f * std::fabs(spread.row(0)[column]));
        if (!c.shared && i % 5 == 2 && j == 0) thresholds.row(j)[i] = std::fabs(x.row(i % x.rows())[i]);
        if (!c.shared && i % 7 == 3 && j == steps - 1) thresholds.row(j)[i] = HUGE_VALF;
      }
    return thresholds;
  }

  static void grade_on_cpu(std::span<const float> x, float factor, const MatrixBuffer<float>& thresholds,
                           const std::vector<Level>& levels, std::span<Level> chosen) {
    std::vector<Level> increments;
    for (size_t k = 0; k + 1 < levels.size(); ++k)
      increments.push_back(static_cast<Level>(levels[k + 1] - levels[k]));
    std::vector<float> scaled(x.begin(), x.end());
    for (float& value : scaled) value *= factor;
    grade(scaled, thresholds.view(), increments, levels.front(), chosen);
  }
};

TEST_P(CudaGrading, ChoosesWhatTheCpuChooses) {
  const Case& c = GetParam();
  const auto x = random_of(c.type, c.rows, c.in, 1, 0.8);
  const auto thresholds = thresholds_for(c, x);
  std::vector<float> flat(thresholds.data(), thresholds.data() + thresholds.size());
  if (c.shared) {
    flat.clear();
    for (int64_t j = 0; j < thresholds.rows(); ++j) flat.push_back(thresholds.row(j)[0]);
  }
  const auto device_thresholds = testing::device_array(flat);
  GradingRule rule;
  rule.thresholds = device_thresholds.data();
  rule.shared = c.shared;
  rule.count = static_cast<int32_t>(c.levels.size());
  std::copy(c.levels.begin(), c.levels.end(), rule.levels);
  rule.budget = c.budget;
  std::vector<uint8_t> fixed(static_cast<size_t>(c.rows), 255);
  for (size_t t = 0; t < fixed.size(); t += 3) fixed[t] = c.levels.back();
  const auto device_fixed = testing::device_array(fixed);
  const auto chosen = testing::device_array(std::vector<uint8_t>(static_cast<size_t>(c.rows * c.in), 77));
  const TypedMatrix device_x(c.type, x);

  for (const bool with_fixed : {false, true}) {
    cuda::grade(device_x.view(), rule, with_fixed ? device_fixed.data() : nullptr, chosen.data(), nullptr);
    const std::vector<uint8_t> found = testing::host_vector(chosen);
    std::vector<Level> expected(static_cast<size_t>(c.in));
    for (int64_t t = 0; t < c.rows; ++t) {
      const std::span<const float> row{x.row(t), static_cast<size_t>(c.in)};
      float factor = 1;
      if (c.budget >= 0) {
        double low = -12, high = 12;
        for (int step = 0; step < 20; ++step) {
          const double middle = 0.5 * (low + high);
          grade_on_cpu(row, static_cast<float>(std::exp2(middle)), thresholds, c.levels, expected);
          const double read = std::accumulate(expected.begin(), expected.end(), 0);
          (read > c.budget * static_cast<double>(c.in) ? high : low) = middle;
        }
        factor = static_cast<float>(std::exp2(low));
      }
      grade_on_cpu(row, factor, thresholds, c.levels, expected);
      if (with_fixed && fixed[static_cast<size_t>(t)] != 255)
        std::fill(expected.begin(), expected.end(), fixed[static_cast<size_t>(t)]);
      for (int64_t i = 0; i < c.in; ++i)
        ASSERT_EQ(int{found[static_cast<size_t>(t * c.in + i)]}, int{expected[static_cast<size_t>(i)]})
            << "token " << t << ", channel " << i;
    }
  }
}

TEST_P(CudaGrading, CountsFillsAndMasks) {
  const Case& c = GetParam();
  const auto x = random_of(c.type, c.rows, c.in, 2);
  std::vector<uint8_t> levels(static_cast<size_t>(c.rows * c.in));
  for (size_t i = 0; i < levels.size(); ++i)
    levels[i] = c.levels[(i * i / 3 + i / static_cast<size_t>(c.in)) % c.levels.size()];
  const auto chosen = testing::device_array(levels);
  const cuda::Array<int32_t> counts(c.rows * 17);
  cuda::count_levels(chosen.data(), c.rows, c.in, counts.data(), nullptr);
  std::vector<int32_t> expected_counts(static_cast<size_t>(c.rows * 17));
  for (int64_t t = 0; t < c.rows; ++t)
    for (int64_t i = 0; i < c.in; ++i)
      ++expected_counts[static_cast<size_t>(t * 17 + levels[static_cast<size_t>(t * c.in + i)])];
  EXPECT_EQ(testing::host_vector(counts), expected_counts);

  const int64_t padded = (c.in + 7) / 8 * 8 + (c.in % 2 ? 0 : 8);
  std::vector<uint8_t> steps(c.levels.begin() + 1, c.levels.end());
  const auto device_steps = testing::device_array(steps);
  const auto parts = static_cast<int32_t>(steps.size());
  const TypedMatrix out(c.type, c.rows, parts * padded), device_x(c.type, x);
  cuda::mask_by_level(device_x.view(), chosen.data(), device_steps.data(), parts, padded, out.view(),
                      nullptr);
  const MatrixBuffer<float> found = out.values();
  for (int64_t t = 0; t < c.rows; ++t)
    for (int64_t k = 0; k < parts; ++k)
      for (int64_t i = 0; i < padded; ++i) {
        const bool kept =
            i < c.in && levels[static_cast<size_t>(t * c.in + i)] >= steps[static_cast<size_t>(k)];
        ASSERT_EQ(found.row(t)[k * padded + i], kept ? x.row(t)[i] : 0.0f) << t << ", " << k << ", " << i;
      }

  std::vector<uint8_t> fixed(static_cast<size_t>(c.rows));
  for (size_t t = 0; t < fixed.size(); ++t) fixed[t] = static_cast<uint8_t>(t % 17);
  const auto device_fixed = testing::device_array(fixed);
  cuda::fill_levels(device_fixed.data(), c.rows, c.in, chosen.data(), nullptr);
  const std::vector<uint8_t> filled = testing::host_vector(chosen);
  for (size_t i = 0; i < filled.size(); ++i) ASSERT_EQ(filled[i], fixed[i / static_cast<size_t>(c.in)]);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, CudaGrading,
    ::testing::Values(Case{Type::f32, 7, 64, {0, 2, 4, 8}}, Case{Type::f32, 13, 1003, {0, 2, 4, 8}},
                      Case{Type::bf16, 30, 4096, {0, 2, 4, 8}}, Case{Type::f32, 6, 500, {1, 2, 3}, true},
                      Case{Type::bf16, 3, 77, {4, 16}},
                      Case{Type::f32, 5, 4096, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}},
                      Case{Type::f32, 9, 1003, {0, 2, 4, 8}, false, 3.0},
                      Case{Type::f32, 18, 4096, {0, 2, 4, 8}, false, 2.0},
                      Case{Type::bf16, 5, 14336, {0, 2, 4, 8}, false, 4.0},
                      Case{Type::f32, 4, 640, {2, 4, 8}, true, 2.0}));

}  // namespace
}  // namespace grinqh
