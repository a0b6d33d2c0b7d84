// Rouge-L (Lin, 2004) of token sequences: the F-measure of the longest common subsequence.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace grinqh {

// 2 PR / (P + R), the lengths' shares that the subsequence covers; 0 if there is none.
inline double rouge_l(std::span<const int32_t> candidate, std::span<const int32_t> reference) {
  std::vector<int64_t> longest(reference.size() + 1, 0);  // of candidate's head and reference's first j
  for (const int32_t token : candidate) {
    int64_t diagonal = 0;
    for (size_t j = 1; j <= reference.size(); ++j) {
      const int64_t above = longest[j];
      longest[j] = token == reference[j - 1] ? diagonal + 1 : std::max(above, longest[j - 1]);
      diagonal = above;
    }
  }
  const size_t both = candidate.size() + reference.size();
  return both == 0 ? 0.0 : 2.0 * static_cast<double>(longest.back()) / static_cast<double>(both);
}

}  // namespace grinqh
