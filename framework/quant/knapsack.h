// The multiple-choice knapsack: one choice for each item, the least loss in all that a budget allows. Bits
// are divided among layers by it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace grinqh {

struct Choice {
  int64_t cost;
  double loss;
};

// The index of each item's choice, such that the costs add up to at most `budget` and the losses to the least
// possible; the first among equals. Exact, by dynamic programming over the cost in units of the costs' common
// divisor, unless these were more than 2^17: then costs are rounded up to a coarser unit, so that the budget
// holds. The cheapest choices must fit into the budget.
std::vector<size_t> choose_within_budget(std::span<const std::vector<Choice>> items, int64_t budget);

}  // namespace grinqh
