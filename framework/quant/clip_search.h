// Ranges of groups of weights that are clipped before rounding, searched on the layer's output (Lin et al.,
// AWQ, 2306.00978).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/matrix.h"

namespace grinqh {

struct ClipTask {
  std::string layer;           // which an error names
  Matrix<const float> weight;  // [out, in]
  Matrix<const float> inputs;  // [tokens, in]
  int bits;                    // 2..8, of an asymmetric grid
  int64_t group;               // consecutive inputs of a row that share a grid; its last group may be short
  // Shares 1, 1 - 1 / share_steps, ... are tried, so many of them.
  int steps, share_steps;
  Matrix<float> shares;  // [out, groups], the result

  float share(int step) const { return 1.0f - static_cast<float>(step) / static_cast<float>(share_steps); }
};

// For every group of every row the share of its largest |w| to which weights are clamped before rounding that
// leaves the least sum over tokens of (x (w - w'))^2, x and w those of the group; of equal ones the greatest.
// BadInput naming the layer if a grid's scale does not fit into float16.
void search_clips(const ClipTask& task);

// The group's weights clamped to that share of the largest magnitude among them.
std::vector<float> clipped_group(std::span<const float> group, float share);

}  // namespace grinqh
