// Row-major matrices: `Matrix<T>` is a non-owning view, `MatrixBuffer<T>` owns cache-line aligned storage.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>

#include "core/blocks.h"

namespace grinqh {

template <class T>
struct Matrix {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;  // elements from one row to the next, >= cols

  Matrix() = default;
  Matrix(T* data, int64_t rows, int64_t cols) : Matrix(data, rows, cols, cols) {}
  Matrix(T* data, int64_t rows, int64_t cols, int64_t stride)
      : data(data), rows(rows), cols(cols), stride(stride) {}

  // A view of mutable elements serves wherever a read-only one is expected.
  template <class U>
  requires std::is_same_v<T, const U> Matrix(Matrix<U> other)
      : Matrix(other.data, other.rows, other.cols, other.stride) {}

  T* row(int64_t r) const { return data + r * stride; }
  T& operator()(int64_t r, int64_t c) const { return data[r * stride + c]; }
  std::span<T> row_span(int64_t r) const { return {row(r), static_cast<size_t>(cols)}; }
  bool empty() const { return rows == 0 || cols == 0; }

  // Rows [begin, end) of the same storage.
  Matrix rows_between(int64_t begin, int64_t end) const { return {row(begin), end - begin, cols, stride}; }
  // Columns [begin, end) of the same storage.
  Matrix cols_between(int64_t begin, int64_t end) const { return {data + begin, rows, end - begin, stride}; }
};

// Contents are uninitialized unless `zeroed` made it.
template <class T>
class MatrixBuffer {
  static_assert(std::is_trivial_v<T>);

 public:
  MatrixBuffer() = default;
  MatrixBuffer(int64_t rows, int64_t cols) : rows_(rows), cols_(cols) {
    const size_t bytes = static_cast<size_t>(rows * cols) * sizeof(T);
    data_ = {static_cast<T*>(take_block(bytes)), Free{bytes}};
  }

  static MatrixBuffer zeroed(int64_t rows, int64_t cols) {
    MatrixBuffer buffer(rows, cols);
    std::fill_n(buffer.data(), rows * cols, T{});
    return buffer;
  }

  MatrixBuffer copy() const {
    MatrixBuffer other(rows_, cols_);
    std::copy_n(data(), size(), other.data());
    return other;
  }

  T* data() const { return data_.get(); }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t size() const { return rows_ * cols_; }
  T* row(int64_t r) const { return data() + r * cols_; }

  Matrix<T> view() const { return {data(), rows_, cols_}; }
  operator Matrix<T>() const { return view(); }
  operator Matrix<const T>() const { return view(); }

 private:
  struct Free {
    size_t bytes = 0;
    void operator()(T* p) const { give_block(p, bytes); }
  };

  int64_t rows_ = 0;
  int64_t cols_ = 0;
  std::unique_ptr<T[], Free> data_;
};

}  // namespace grinqh
