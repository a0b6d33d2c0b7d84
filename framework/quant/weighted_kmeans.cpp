#include "quant/weighted_kmeans.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "core/error.h"

namespace grinqh {

namespace {

// Floats in the order of their values as unsigned integers; the index below makes the order of ties fixed.
uint64_t sort_key(float value, size_t index) {
  const auto bits = std::bit_cast<uint32_t>(value + 0.0f);  // -0 becomes +0
  const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | index;
}

// The dynamic program over clusters: best[i] is the greatest gain of the first i values in `clusters`
// clusters.
class Partition {
 public:
  Partition(const SortedRow& row, int k)
      : row_(row),
        n_(row.size()),
        best_(static_cast<size_t>(n_) + 1),
        next_(best_.size()),
        last_begin_(static_cast<size_t>(k) * best_.size(), 0) {
    for (int i = 1; i <= n_; ++i) best_[static_cast<size_t>(i)] = row.gain(0, i);
    for (int c = 1; c < k; ++c) {
      cluster_ = c;
      if (c == k - 1)
        place(n_, c, n_ - 1);  // all that is asked of the last cluster
      else
        solve(c + 1, n_, c, n_ - 1);
      std::swap(best_, next_);
    }
  }

  std::vector<int> borders(int k) const {
    std::vector<int> result(static_cast<size_t>(k) + 1, 0);
    result[static_cast<size_t>(k)] = n_;
    for (int c = k - 1; c > 0; --c)
      result[static_cast<size_t>(c)] = begin(c, result[static_cast<size_t>(c) + 1]);
    return result;
  }

 private:
  // Where cluster c begins if it ends at i.
  int& begin(int c, int i) {
    return last_begin_[static_cast<size_t>(c) * best_.size() + static_cast<size_t>(i)];
  }
  int begin(int c, int i) const {
    return last_begin_[static_cast<size_t>(c) * best_.size() + static_cast<size_t>(i)];
  }

  // The best beginning of this cluster, within [low, high], if it ends at i. It is never left of where the
  // cluster before would begin with the same end.
  int place(int i, int low, int high) {
    low = std::max(low, begin(cluster_ - 1, i));
    high = std::min(high, i - 1);
    double most = -std::numeric_limits<double>::infinity();
    int found = low;
    for (int m = low; m <= high; ++m) {
      const double gain = best_[static_cast<size_t>(m)] + row_.gain(m, i);
      if (gain > most) most = gain, found = m;
    }
    next_[static_cast<size_t>(i)] = most;
    begin(cluster_, i) = found;
    return found;
  }

  // Ends [first, last], whose beginnings lie within [low, high] and do not fall as the end rises.
  void solve(int first, int last, int low, int high) {
    if (first > last) return;
    const int middle = first + (last - first) / 2;
    const int found = place(middle, low, high);
    solve(first, middle - 1, low, found);
    solve(middle + 1, last, found, high);
  }

  const SortedRow& row_;
  int n_;
  int cluster_ = 0;
  std::vector<double> best_, next_;
  std::vector<int> last_begin_;  // [k][n + 1]
};

// The border between two neighbouring clusters with values of weight zero at it: halfway between centroids.
int halfway(const SortedRow& row, int begin, int border, int end) {
  const double middle = 0.5 * (row.centroid(begin, border) + row.centroid(border, end));
  while (border - 1 > begin && row.value(border - 1) > middle) --border;
  while (border + 1 < end && row.value(border) < middle) ++border;
  return border;
}

}  // namespace

SortedRow::SortedRow(std::span<const float> values, std::span<const float> weights) {
  check(values.size() == weights.size(), "k-means: one weight a value");
  const bool uniform = std::ranges::all_of(weights, [](float w) { return w == 0; });
  std::vector<uint64_t> keys(values.size());
  for (size_t i = 0; i < values.size(); ++i) keys[i] = sort_key(values[i], i);
  std::ranges::sort(keys);

  order_.reserve(keys.size());
  value_.reserve(keys.size());
  weight_.reserve(keys.size());
  double total = 0, moment = 0;
  for (const uint64_t key : keys) {
    const auto index = static_cast<uint32_t>(key);
    order_.push_back(static_cast<int>(index));
    value_.push_back(values[index]);
    weight_.push_back(uniform ? 1.0 : static_cast<double>(weights[index]));
    total += weight_.back();
    moment += weight_.back() * value_.back();
  }
  // Sums about the mean: what is left of them after a subtraction is then small beside no offset.
  const double mean = total > 0 ? moment / total : 0.0;
  weight_sum_.reserve(keys.size() + 1);
  moment_sum_.reserve(keys.size() + 1);
  weight_sum_.push_back(0.0);
  moment_sum_.push_back(0.0);
  for (size_t i = 0; i < value_.size(); ++i) {
    weight_sum_.push_back(weight_sum_.back() + weight_[i]);
    moment_sum_.push_back(moment_sum_.back() + weight_[i] * (value_[i] - mean));
  }
}

double SortedRow::centroid(int begin, int end) const {
  check(begin < end, "k-means: the centroid of no values");
  double total = 0, moment = 0, sum = 0;
  for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
    total += weight_[i];
    moment += weight_[i] * value_[i];
    sum += value_[i];
  }
  const double mean = total > 0 ? moment / total : sum / (end - begin);
  return std::clamp(mean, value(begin), value(end - 1));
}

double SortedRow::error(int begin, int end) const {
  if (begin == end) return 0;
  const double mean = centroid(begin, end);
  double sum = 0;
  for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i)
    sum += weight_[i] * (value_[i] - mean) * (value_[i] - mean);
  return sum;
}

std::vector<int> optimal_clusters(const SortedRow& row, int k) {
  check(k >= 1, "k-means: no clusters");
  const int used = std::min(k, row.size());
  std::vector<int> borders = used > 0 ? Partition(row, used).borders(used) : std::vector<int>{0};
  for (int c = 1; c < used; ++c) {
    const auto at = static_cast<size_t>(c);
    borders[at] = halfway(row, borders[at - 1], borders[at], borders[at + 1]);
  }
  borders.resize(static_cast<size_t>(k) + 1, row.size());
  return borders;
}

int optimal_split(const SortedRow& row, int begin, int end) {
  double most = -1;
  int cut = end;
  for (int m = begin + 1; m < end; ++m) {
    if (row.value(m) == row.value(begin) || row.value(m - 1) == row.value(end - 1)) continue;
    const double gain = row.gain(begin, m) + row.gain(m, end);
    if (gain > most) most = gain, cut = m;
  }
  return cut == end ? end : halfway(row, begin, cut, end);
}

}  // namespace grinqh
