#include "quant/nested_fit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/nested/layout.h"
#include "nested_grids.h"
#include "numbers.h"
#include "quant/grading_rule.h"

namespace grinqh {
namespace {

using testing::OwnedGrids;

constexpr int64_t kOut = 150, kIn = 70, kGroup = 32;
const std::vector<Level> kLevels{0, 2, 4, 8};

int cell_of(float weight, const OwnedGrids& grids, int64_t row, int64_t i) {
  const float position = (weight - grids.minimum(row, i)) / grids.scale(row, i);
  return static_cast<int>(std::clamp(std::floor(position), 0.0f, 255.0f));
}

TEST(NestedFit, FindsTheCellsOfWeights) {
  const MatrixBuffer<float> weight = testing::random_matrix(kOut, kIn, 1);
  for (const bool along_inputs : {false, true}) {
    const OwnedGrids grids(kOut, kIn, kGroup, along_inputs, 5);
    MatrixBuffer<uint8_t> codes(kOut, kIn);
    round_to_cells(weight, grids.grids, codes);
    for (int64_t r = 0; r < kOut; ++r)
      for (int64_t i = 0; i < kIn; ++i)
        ASSERT_EQ(codes.row(r)[i], cell_of(weight.row(r)[i], grids, r, i)) << r << " " << i;
  }
}

TEST(NestedFit, SumsByPrefixAsTheyAreDefined) {
  const MatrixBuffer<float> weight = testing::random_matrix(kOut, kIn, 1),
                            energies = testing::random_matrix(4, kIn, 2);
  for (const bool along_inputs : {false, true}) {
    const OwnedGrids grids(kOut, kIn, kGroup, along_inputs, 5);
    std::vector<PrefixSums> sums = table_sums(4, kLevels, energies);
    sum_prefixes(weight, grids.grids, sums);
    ASSERT_EQ(sums.size(), 3u) << "levels 4 and 2 by energies, level 3 for itself and level 1";
    for (const PrefixSums& found : sums) {
      std::vector<double> weights(size_t{1} << found.level), positions(weights.size());
      for (int64_t r = 0; r < kOut; ++r)
        for (int64_t i = 0; i < kIn; ++i) {
          const auto scale = static_cast<double>(grids.scale(r, i));
          const double position =
              (static_cast<double>(weight.row(r)[i]) - static_cast<double>(grids.minimum(r, i))) / scale;
          const int64_t served = found.level / 2;  // row of `energies`
          const double each =
              scale * scale * (found.level == 3 ? 1.0 : static_cast<double>(energies.row(served)[i]));
          const auto prefix =
              static_cast<size_t>(cell_of(weight.row(r)[i], grids, r, i) >> (8 - found.level));
          weights[prefix] += each;
          positions[prefix] += each * position;
        }
      EXPECT_LE(
          testing::relative_error(std::span<const double>(found.weight), std::span<const double>(weights)),
          1e-12);
      EXPECT_LE(testing::relative_error(std::span<const double>(found.position),
                                        std::span<const double>(positions)),
                1e-6);
    }
  }
}

TEST(NestedFit, TablesTakeTheMeansOfPrefixesOrTheirMiddles) {
  std::vector<PrefixSums> sums = table_sums(2, kLevels, {});
  ASSERT_EQ(sums.size(), 1u);
  sums.front().weight = {1, 3, 0, 0};
  sums.front().position = {10, 360, 0, 0};
  std::vector<float> table;
  for (const uint16_t entry : fitted_table(2, sums)) table.push_back(from_half(entry));
  EXPECT_EQ(table, (std::vector<float>{92.5f, 192, 10, 120, 160, 224}));
  EXPECT_TRUE(table_sums(0, kLevels, {}).empty());
  EXPECT_TRUE(fitted_table(0, {}).empty());
}

TEST(NestedFit, PositionsAndErrorsAreThoseOfTheLayer) {
  const MatrixBuffer<float> weight = testing::random_matrix(kOut, kIn, 1);
  for (const bool along_inputs : {false, true}) {
    const OwnedGrids grids(kOut, kIn, kGroup, along_inputs, 5);
    std::vector<PrefixSums> sums = table_sums(4, kLevels, {});
    sum_prefixes(weight, grids.grids, sums);
    const std::vector<uint16_t> table = fitted_table(4, sums);
    MatrixBuffer<uint8_t> codes(kOut, kIn);
    round_to_cells(weight, grids.grids, codes);
    NestedShape shape{kOut, kIn, kGroup, along_inputs ? GroupAxis::input : GroupAxis::output, kLevels, 4};
    const NestedLinear layer(shape, codes, grids.scales, grids.minima, table);
    const MatrixBuffer<float> positions = nested_positions(kLevels, table);
    for (size_t k = 1; k < kLevels.size(); ++k) {
      const MatrixBuffer<float> decoded = layer.dequantize(kLevels[k]);
      for (int64_t r = 0; r < kOut; ++r)
        for (int64_t i = 0; i < kIn; ++i)
          ASSERT_EQ(decoded.row(r)[i],
                    grids.minimum(r, i) +
                        grids.scale(r, i) * positions.row(static_cast<int64_t>(k))[codes.row(r)[i]]);
    }
    const MatrixBuffer<double> found = nested_errors(weight, grids.grids, kLevels, positions),
                               expected = level_errors(weight, layer, kLevels);
    EXPECT_TRUE(std::equal(found.data(), found.data() + found.size(), expected.data()));
  }
}

}  // namespace
}  // namespace grinqh
