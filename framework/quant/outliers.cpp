#include "quant/outliers.h"

#include <algorithm>
#include <cmath>

namespace grinqh {

namespace {

struct Candidate {
  float score;
  int64_t place;  // row * in + column
};

// Marks the share of all weights with the highest scores among those not marked yet.
template <class Score>
void mark(Matrix<const float> weight, double share, std::vector<uint8_t>& marked, const Score& score) {
  const auto count = static_cast<int64_t>(std::llround(share * static_cast<double>(marked.size())));
  if (count == 0) return;
  std::vector<Candidate> candidates;
  for (int64_t row = 0; row < weight.rows; ++row)
    for (int64_t i = 0; i < weight.cols; ++i) {
      const int64_t place = row * weight.cols + i;
      if (!marked[static_cast<size_t>(place)]) candidates.push_back({score(row, i), place});
    }
  const auto last = candidates.begin() + std::min(count, static_cast<int64_t>(candidates.size()));
  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.score != b.score ? a.score > b.score : a.place < b.place;
  };
  if (last != candidates.end()) std::nth_element(candidates.begin(), last, candidates.end(), before);
  for (auto each = candidates.begin(); each != last; ++each) marked[static_cast<size_t>(each->place)] = 1;
}

}  // namespace

std::span<const uint32_t> Outliers::of_row(int64_t row) const {
  if (none()) return {};
  const uint32_t begin = row_begin[static_cast<size_t>(row)], end = row_begin[static_cast<size_t>(row) + 1];
  return std::span(columns).subspan(begin, end - begin);
}

Outliers select_outliers(Matrix<const float> weight, const Sensitivity& sensitivity, OutlierShares shares) {
  if (shares.sensitive == 0 && shares.large == 0) return {};
  std::vector<uint8_t> marked(static_cast<size_t>(weight.rows * weight.cols), 0);
  mark(weight, shares.sensitive, marked,
       [&](int64_t row, int64_t i) { return sensitivity.row(row)[static_cast<size_t>(i)]; });
  mark(weight, shares.large, marked, [&](int64_t row, int64_t i) { return std::abs(weight(row, i)); });
  Outliers outliers;
  outliers.row_begin.push_back(0);
  for (int64_t row = 0; row < weight.rows; ++row) {
    for (int64_t i = 0; i < weight.cols; ++i)
      if (marked[static_cast<size_t>(row * weight.cols + i)])
        outliers.columns.push_back(static_cast<uint32_t>(i));
    outliers.row_begin.push_back(static_cast<uint32_t>(outliers.columns.size()));
  }
  if (outliers.none()) return {};
  return outliers;
}

}  // namespace grinqh
