// The decoding kernel's order of codes, taken apart again by what gemv_order.h says of it.
#include "kernels/group_mixed/gemv_order.h"

#include <gtest/gtest.h>

#include <map>
#include <tuple>
#include <vector>

#include "core/rng.h"

namespace grinqh {
namespace {

class MixedOrderOf : public ::testing::TestWithParam<std::tuple<int, int>> {};

TEST_P(MixedOrderOf, HoldsEveryCodeOnceWhereTheProductsTakeIt) {
  const auto [bits, group] = GetParam();
  MixedOrder order;
  order.group = group;
  Rng rng(static_cast<uint64_t>(bits));
  std::vector<uint32_t> codes(MixedOrder::kOutputs * MixedOrder::kInputs);
  for (uint32_t& code : codes) code = static_cast<uint32_t>(rng.below(1u << bits));
  const auto index = [&](int output, int slot, int i) {
    return static_cast<size_t>(output * MixedOrder::kInputs + slot * group + i);
  };
  std::vector<uint8_t> chunk(static_cast<size_t>(bits * MixedOrder::kDigitBytes));
  pack_mixed_codes(
      order, bits, [&](int output, int slot, int i) { return codes[index(output, slot, i)]; }, chunk.data());

  std::map<size_t, int> seen;
  for (int s = 0; s < MixedOrder::kSteps; ++s)
    for (int q = 0; q < 4; ++q)
      for (int lane = 0; lane < 32; ++lane)
        for (int word = 0; word < 4; ++word)
          for (int i = 0; i < 4; ++i) {
            // Row and inputs of a word, as m16n8k32 takes A: outputs g and g + 8 in turn, then the last four.
            const int output = lane / 4 + (word & 1) * 8, within = lane % 4 * 8 + (word >> 1) * 4 + i;
            const int input = s * 32 + within;  // of those that have group q of four
            const int steps = group / 32, slot = s / steps * 4 + q, in_group = input % group;
            uint32_t value = 0;
            int below = 0, base = 0;
            for (const int digit : {8, 4, 2, 1}) {
              if (bits == 8 ? digit != 8 : (bits & digit) == 0) continue;
              const int per_byte = 8 / digit;
              // Vectors of 16 bytes a lane: a step has digit / 2 of them, two steps share one of single bits.
              const int vector = digit == 1 ? s / 2 : s * digit / 2 + q / per_byte;
              const int shift = digit == 1 ? s % 2 * 4 + q : q % per_byte * digit;
              const size_t at = static_cast<size_t>(base + (vector * 32 + lane) * 16 + word * 4 + i);
              value |= (chunk[at] >> shift & ((1u << digit) - 1)) << below;
              below += digit;
              base += digit * MixedOrder::kDigitBytes;
            }
            ASSERT_EQ(value, codes[index(output, slot, in_group)]);
            ++seen[index(output, slot, in_group)];
          }
  EXPECT_EQ(seen.size(), codes.size());
}

INSTANTIATE_TEST_SUITE_P(WidthsAndGroups, MixedOrderOf,
                         ::testing::Combine(::testing::Range(1, 9), ::testing::Values(32, 64, 128)));

}  // namespace
}  // namespace grinqh
