// Random matrices, and the plain arithmetic in float64 that the tests of numerical code compare with.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "core/matrix.h"
#include "core/parallel.h"
#include "core/rng.h"

namespace grinqh::testing {

inline MatrixBuffer<float> random_matrix(int64_t rows, int64_t cols, uint64_t seed, double deviation = 1.0) {
  MatrixBuffer<float> matrix(rows, cols);
  Rng rng(seed);
  for (int64_t i = 0; i < matrix.size(); ++i) matrix.data()[i] = static_cast<float>(deviation * rng.normal());
  return matrix;
}

inline std::vector<float> random_vector(int64_t size, uint64_t seed, double deviation = 1.0) {
  const MatrixBuffer<float> matrix = random_matrix(1, size, seed, deviation);
  return {matrix.data(), matrix.data() + size};
}

// x w^T by its definition.
inline MatrixBuffer<double> product_nt(Matrix<const float> x, Matrix<const float> w) {
  MatrixBuffer<double> y(x.rows, w.rows);
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t n = 0; n < w.rows; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < x.cols; ++k) sum += static_cast<double>(x(t, k)) * static_cast<double>(w(n, k));
      y.view()(t, n) = sum;
    }
  return y;
}

// ||found - expected|| / ||expected||; the norm itself where nothing is expected.
template <class Found, class Expected>
double relative_error(std::span<const Found> found, std::span<const Expected> expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    difference += std::pow(static_cast<double>(found[i]) - static_cast<double>(expected[i]), 2);
    norm += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(norm > 0 ? difference / norm : difference);
}

template <class Found, class Expected>
double relative_error(const MatrixBuffer<Found>& found, const MatrixBuffer<Expected>& expected) {
  return relative_error(std::span<const Found>(found.data(), static_cast<size_t>(found.size())),
                        std::span<const Expected>(expected.data(), static_cast<size_t>(expected.size())));
}

// The greatest relative error of a row.
template <class Found, class Expected>
double worst_row_error(Matrix<Found> found, Matrix<Expected> expected) {
  double worst = 0;
  for (int64_t t = 0; t < found.rows; ++t)
    worst = std::max(worst, relative_error(std::span<const Found>(found.row_span(t)),
                                           std::span<const Expected>(expected.row_span(t))));
  return worst;
}

// Another number of threads for the length of a scope.
class Threads {
 public:
  explicit Threads(int count) { set_threads(count); }
  ~Threads() { set_threads(0); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
};

}  // namespace grinqh::testing
