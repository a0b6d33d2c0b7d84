// What a learned schedule is trained to say of a prompt: the earliest drop that costs it no more than
// allowed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/matrix.h"

namespace grinqh {

class DropLabels {
 public:
  // deficits: [prompts, drops], what each drop, in ascending order, costs each prompt against none.
  explicit DropLabels(MatrixBuffer<double> deficits) : deficits_(std::move(deficits)) {}

  // 0 .. drops; the last one stands for no drop.
  int64_t of(int64_t prompt, double allowed) const;
  std::vector<int64_t> histogram(double allowed) const;

  // The least allowance with which labels read at most `mean_bits`, or that of all drops at once. bits:
  // [drops + 1], what a prompt with each label reads, ascending.
  double allowance(std::span<const double> bits, double mean_bits) const;

 private:
  MatrixBuffer<double> deficits_;
};

}  // namespace grinqh
