#include "quant/live_layer.h"

#include <gtest/gtest.h>

#include <vector>

#include "numbers.h"

namespace grinqh {
namespace {

TEST(LiveLayer, DeadInputsHaveNoWeightsAndColumnsLieInTheirOrder) {
  constexpr int64_t kOut = 5, kIn = 4;
  const MatrixBuffer<float> weight = testing::random_matrix(kOut, kIn, 1);
  std::vector<float> moments;
  for (int i = 0; i < kIn * kIn; ++i) moments.push_back(static_cast<float>(i + 1));
  for (int64_t i = 0; i < kIn; ++i) moments[static_cast<size_t>(2 * kIn + i)] = 0;  // input 2 is always zero
  for (int64_t i = 0; i < kIn; ++i) moments[static_cast<size_t>(i * kIn + 2)] = 0;

  const std::vector<int64_t> order{3, 2, 0, 1};
  for (const InputOrder each : {InputOrder(order), InputOrder()}) {
    const LiveLayer layer = live_layer(weight, moments, each);
    for (int64_t i = 0; i < kIn; ++i) {
      const int64_t from = each.empty() ? i : order[static_cast<size_t>(i)];
      for (int64_t r = 0; r < kOut; ++r)
        EXPECT_EQ(layer.weight.row(r)[i], from == 2 ? 0.0f : weight.row(r)[from]);
      for (int64_t j = 0; j < kIn; ++j) {
        const int64_t other = each.empty() ? j : order[static_cast<size_t>(j)];
        const bool dead = from == 2 && other == 2;
        EXPECT_EQ(layer.moments.row(i)[j], dead ? 1.0f : moments[static_cast<size_t>(from * kIn + other)]);
      }
    }
  }
}

}  // namespace
}  // namespace grinqh
