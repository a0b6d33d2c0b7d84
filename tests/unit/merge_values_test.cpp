#include "quant/merge_values.h"

#include <gtest/gtest.h>

#include <numeric>

namespace grinqh {
namespace {

using Values = PlainVector<float>;

TEST(MergeValues, ByHand) {
  const Values a{1, 2, 8}, b{5, 6, 4};
  EXPECT_EQ(merge_values(Merge::mean, {a, 1}, {b, 3}), (Values{4, 5, 5}));
  EXPECT_EQ(merge_values(Merge::sum, {a, 1}, {b, 3}), (Values{6, 8, 12}));
  EXPECT_EQ(merge_values(Merge::largest, {a, 1}, {b, 3}), (Values{5, 6, 8}));
}

// Tokens 0 .. 2047 of one input each, every 4th of all of them.
TEST(MergeValues, SamplesAreThoseOfOneRun) {
  const auto every = [](int first, int last, int stride) {
    Values values;
    for (int t = first; t < last; t += stride) values.push_back(static_cast<float>(t));
    return values;
  };
  const Values first = every(0, 1024, 2), second = every(1024, 2048, 2);
  EXPECT_EQ(merge_values(Merge::sample, {first, 1024}, {second, 1024}), every(0, 2048, 4));
  const Values few = every(1024, 1124, 1);
  const Values merged = merge_values(Merge::sample, {first, 1024}, {few, 100});
  EXPECT_LE(merged.size(), static_cast<size_t>(kSampledTokens));
  EXPECT_EQ(merged.back(), 1120);
}

TEST(MergeValues, WhatDoesNotFitIsRefused) {
  const Values a{1, 2}, b{1, 2, 3};
  EXPECT_THROW(merge_values(Merge::mean, {a, 1}, {b, 1}), std::runtime_error);
  EXPECT_THROW(merge_values(Merge::sample, {a, 1}, {b, 1}), std::runtime_error);
}

}  // namespace
}  // namespace grinqh
