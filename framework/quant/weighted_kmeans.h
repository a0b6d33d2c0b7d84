// Weighted k-means on a line, solved optimally: in one dimension the best clusters are intervals of the
// sorted values, so a dynamic program finds them (Wang and Song, 2011; the borders are monotone, so divide
// and conquer does with O(k n log n)). No restarts, no seed, the same result everywhere.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/matrix.h"
#include "quant/cluster_gain.h"

namespace grinqh {

// The values of a row in ascending order, with prefix sums in float64.
class SortedRow {
 public:
  SortedRow() = default;
  // weights: finite, not negative, one a value; if all are zero, every value weighs the same. Values of
  // weight zero have a place in a cluster but no say in it.
  SortedRow(std::span<const float> values, std::span<const float> weights);

  int size() const { return static_cast<int>(order_.size()); }
  int index(int place) const { return order_[static_cast<size_t>(place)]; }  // in the row
  double value(int place) const { return value_[static_cast<size_t>(place)]; }

  // Of the places [begin, end): the weighted mean (the plain one where no value has weight; begin < end), and
  // the sum of w (v - mean)^2.
  double centroid(int begin, int end) const;
  double error(int begin, int end) const;

  // By how much the weighted squared error about the row's mean falls if [begin, end) becomes a cluster.
  double gain(int begin, int end) const {
    return cluster_gain(weight_sum_.data(), moment_sum_.data(), begin, end);
  }
  // What gain() is made of, [size + 1] each.
  std::span<const double> weight_sums() const { return weight_sum_; }
  std::span<const double> moment_sums() const { return moment_sum_; }

 private:
  std::vector<int> order_;
  std::vector<double> value_, weight_;           // [size], ascending values
  std::vector<double> weight_sum_, moment_sum_;  // [size + 1]: of w and of w (v - the row's mean)
};

// Borders [k + 1] of the clusters of least weighted squared error: cluster c is the places
// [borders[c], borders[c + 1]), empty only if there are fewer values than clusters. Values of weight zero
// between two clusters go to the nearer centroid.
std::vector<int> optimal_clusters(const SortedRow& row, int k);

// Where to cut [begin, end) in two for the least weighted squared error: begin < cut < end if there are two
// different values, else `end`.
int optimal_split(const SortedRow& row, int begin, int end);

}  // namespace grinqh
