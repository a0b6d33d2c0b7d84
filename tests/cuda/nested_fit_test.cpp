// Sums by prefix and errors of nested codes on a GPU against those of the CPU.
#include <gtest/gtest.h>

#include <thread>

#include "cuda/accelerator.h"
#include "cuda/gpu.h"
#include "nested_grids.h"
#include "numbers.h"

namespace grinqh {
namespace {

struct FitCase {
  int64_t out, in, group;
  bool along_inputs;
};

struct NestedFitOnGpu : ::testing::TestWithParam<FitCase> {};

TEST_P(NestedFitOnGpu, SumsAndErrsAsTheCpu) {
  if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  const auto [out, in, group, along_inputs] = GetParam();
  const auto gpu = cuda::make_accelerator(0);
  const MatrixBuffer<float> weight = testing::random_matrix(out, in, 31, 0.05),
                            energies = testing::random_matrix(9, in, 33);
  const testing::OwnedGrids grids(out, in, group, along_inputs, 0.4f);
  const std::vector<Level> levels{0, 1, 2, 3, 4, 5, 6, 7, 8};
  for (const Matrix<const float> counts : {Matrix<const float>{}, Matrix<const float>(energies)}) {
    std::vector<PrefixSums> found = table_sums(6, levels, counts), again = found, expected = found;
    gpu->sum_prefixes({weight, grids.grids, found});
    gpu->sum_prefixes({weight, grids.grids, again});
    sum_prefixes(weight, grids.grids, expected);
    testing::expect_same_sums(found, expected);
    for (size_t k = 0; k < found.size(); ++k) EXPECT_EQ(found[k].position, again[k].position);
    const MatrixBuffer<float> positions = nested_positions(levels, fitted_table(6, expected));
    MatrixBuffer<double> errors(9, in);
    gpu->nested_errors({weight, grids.grids, levels, positions, errors.view()});
    EXPECT_LE(testing::relative_error(errors, nested_errors(weight, grids.grids, levels, positions)), 1e-12);
  }
}

TEST(HeldOnGpu, OneCopyServesThreads) {
  if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  const auto gpu = cuda::make_accelerator(0);
  const MatrixBuffer<float> weight = testing::random_matrix(700, 900, 41);
  const testing::OwnedGrids grids(700, 900, 128, false, 5);
  const std::vector<Level> levels{0, 2, 4};
  const std::vector<PrefixSums> none = table_sums(4, levels, {});
  std::vector<PrefixSums> expected = none;
  sum_prefixes(weight, grids.grids, expected);
  const std::shared_ptr<void> held = gpu->hold(weight);
  EXPECT_NE(held, nullptr);
  std::vector<std::vector<PrefixSums>> found(4, none);
  std::vector<std::thread> threads;
  for (std::vector<PrefixSums>& each : found)
    threads.emplace_back([&] { gpu->sum_prefixes({weight, grids.grids, each}); });
  for (std::thread& thread : threads) thread.join();
  for (const std::vector<PrefixSums>& each : found) testing::expect_same_sums(each, expected);
  // A part of it is not the matrix that is held.
  std::vector<PrefixSums> part = none, of_part = none;
  const Matrix<const float> rows = weight.view().rows_between(0, 300);
  gpu->sum_prefixes({rows, grids.grids, part});
  sum_prefixes(rows, grids.grids, of_part);
  testing::expect_same_sums(part, of_part);
}

INSTANTIATE_TEST_SUITE_P(Shapes, NestedFitOnGpu,
                         ::testing::Values(FitCase{300, 512, 128, false}, FitCase{1290, 1408, 128, false},
                                           FitCase{77, 768, 48, true}, FitCase{61, 333, 333, true},
                                           FitCase{70, 513, 70, false}));

}  // namespace
}  // namespace grinqh
