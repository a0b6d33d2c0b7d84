// Float32 products whose elements are summed in one fixed order: the terms x(t, k) w(k, n) of 256 consecutive
// k one after the other by multiply-add, then these sums one after the other. An element depends on its own
// row and column alone, not on the other rows of the batch, on how work is cut, or on terms with x = 0: a
// token computed for itself gets the bits that it gets in a batch. BLAS promises nothing of the kind, and
// where activations are compared with thresholds a last bit becomes another path through the model.
#pragma once

#include <cstdint>
#include <span>

#include "core/matrix.h"

namespace grinqh {

// The right factor w, [K, N].
struct OrderedFactor {
  Matrix<const float> matrix;
  bool transposed = false;  // w(k, n) = matrix(n, k), else matrix(k, n)
  // Not transposed only: the rows of the matrix that take part, ascending; x has a column for each. Empty:
  // all.
  std::span<const int32_t> channels = {};

  int64_t outputs() const { return transposed ? matrix.rows : matrix.cols; }
};

// y += x w, on the calling thread. y_rows: a pointer to N elements for each row of x.
void add_ordered_product(Matrix<const float> x, const OrderedFactor& w, std::span<float* const> y_rows);

// A row of x by its terms that are not zero.
struct SparseRow {
  std::span<const int32_t> channels;  // ascending
  const float* values;                // [channels.size()]
};

// The same bits as add_ordered_product, for rows most of whose terms are zero. w: [K, N].
void add_ordered_product(std::span<const SparseRow> x, Matrix<const float> w, std::span<float* const> y_rows);

}  // namespace grinqh
