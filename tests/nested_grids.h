// Grids of nested codes for tests: float16 values that differ from group to group.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "core/half.h"
#include "numbers.h"
#include "quant/nested_fit.h"

namespace grinqh::testing {

struct OwnedGrids {
  std::vector<uint16_t> scales, minima;
  NestedGrids grids;

  // Groups of `group` inputs of a row, or of as many outputs of a channel.
  OwnedGrids(int64_t out, int64_t in, int64_t group, bool along_inputs, float range) {
    if (along_inputs) {
      grids.row_stride = (in + group - 1) / group, grids.grid_columns = group, grids.column_stride = 1;
    } else {
      grids.grid_rows = group, grids.row_stride = 1, grids.column_stride = (out + group - 1) / group;
    }
    for (int64_t i = 0; i <= grids.grid_of(out - 1, in - 1); ++i) {
      scales.push_back(to_half(range / 256 * (1 + 0.006f * static_cast<float>(i % 37))));
      minima.push_back(to_half(-0.5f * range + 0.003f * range * static_cast<float>(i % 23)));
    }
    grids.scales = scales;
    grids.minima = minima;
  }
  OwnedGrids(const OwnedGrids&) = delete;

  float scale(int64_t row, int64_t i) const { return from_half(scales[index(row, i)]); }
  float minimum(int64_t row, int64_t i) const { return from_half(minima[index(row, i)]); }

 private:
  size_t index(int64_t row, int64_t i) const { return static_cast<size_t>(grids.grid_of(row, i)); }
};

inline void expect_same_sums(std::span<const PrefixSums> found, std::span<const PrefixSums> expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t k = 0; k < found.size(); ++k) {
    EXPECT_LE(
        relative_error(std::span<const double>(found[k].weight), std::span<const double>(expected[k].weight)),
        1e-12);
    EXPECT_LE(relative_error(std::span<const double>(found[k].position),
                             std::span<const double>(expected[k].position)),
              1e-12);
  }
}

}  // namespace grinqh::testing
