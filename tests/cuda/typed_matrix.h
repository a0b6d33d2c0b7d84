// Matrices of either type in device memory, made from float32 on the host and read back as float32.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/dtype.h"
#include "cuda/memory.h"
#include "numbers.h"

namespace grinqh::testing {

// Values that the type holds exactly, so that host and device see the same numbers.
inline MatrixBuffer<float> random_of(cuda::Type type, int64_t rows, int64_t cols, uint64_t seed,
                                     double deviation = 1.0) {
  MatrixBuffer<float> values = random_matrix(rows, cols, seed, deviation);
  if (type == cuda::Type::bf16)
    for (int64_t i = 0; i < values.size(); ++i) values.data()[i] = rounded_to(DType::bf16, values.data()[i]);
  return values;
}

// Rows are at least one element of padding apart, which holds NaNs: whoever reads it shows.
class TypedMatrix {
 public:
  TypedMatrix(cuda::Type type, Matrix<const float> values) : TypedMatrix(type, values.rows, values.cols) {
    std::vector<std::byte> bytes = poisoned();
    for (int64_t r = 0; r < rows_; ++r)
      for (int64_t c = 0; c < cols_; ++c)
        put(values(r, c), bytes.data() + (r * stride_ + c) * size_of(type_));
    cuda::to_device(bytes.data(), memory_.data(), memory_.size(), nullptr);
  }
  // NaNs everywhere.
  TypedMatrix(cuda::Type type, int64_t rows, int64_t cols)
      : type_(type),
        rows_(rows),
        cols_(cols),
        stride_((cols + 8) / 8 * 8),
        memory_(rows * stride_ * size_of(type)) {
    if (rows == 0) return;
    const std::vector<std::byte> bytes = poisoned();
    cuda::to_device(bytes.data(), memory_.data(), memory_.size(), nullptr);
  }

  cuda::View view() const { return {memory_.data(), rows_, cols_, stride_, type_}; }

  MatrixBuffer<float> values() const {
    std::vector<std::byte> bytes(static_cast<size_t>(memory_.size()));
    cuda::to_host(memory_.data(), bytes.data(), memory_.size(), nullptr);
    MatrixBuffer<float> values(rows_, cols_);
    for (int64_t r = 0; r < rows_; ++r)
      for (int64_t c = 0; c < cols_; ++c)
        values.row(r)[c] = take(bytes.data() + (r * stride_ + c) * size_of(type_));
    return values;
  }

 private:
  std::vector<std::byte> poisoned() const {
    return std::vector<std::byte>(static_cast<size_t>(memory_.size()), std::byte{0xff});
  }
  void put(float value, std::byte* to) const {
    const auto bits = std::bit_cast<uint32_t>(value);
    const auto top = static_cast<uint16_t>(bits >> 16);
    if (type_ == cuda::Type::f32)
      std::memcpy(to, &bits, sizeof bits);
    else
      std::memcpy(to, &top, sizeof top);
  }
  float take(const std::byte* from) const {
    uint32_t bits = 0;
    uint16_t top = 0;
    if (type_ == cuda::Type::f32) {
      std::memcpy(&bits, from, sizeof bits);
      return std::bit_cast<float>(bits);
    }
    std::memcpy(&top, from, sizeof top);
    return std::bit_cast<float>(static_cast<uint32_t>(top) << 16);
  }

  cuda::Type type_;
  int64_t rows_, cols_, stride_;
  cuda::Bytes memory_;
};

// What a result may differ by from the float32 one on the same inputs: sums in another order, and the
// rounding of what is stored.
inline double tolerance(cuda::Type type) { return type == cuda::Type::f32 ? 1e-5 : 0x1p-9 + 1e-5; }

// A vector in device memory.
template <class T>
cuda::Array<T> device_array(const std::vector<T>& values) {
  cuda::Array<T> array(static_cast<int64_t>(values.size()));
  if (!values.empty())
    cuda::to_device(values.data(), array.data(), static_cast<int64_t>(values.size() * sizeof(T)), nullptr);
  return array;
}

template <class T>
std::vector<T> host_vector(const cuda::Array<T>& array) {
  std::vector<T> values(static_cast<size_t>(array.count()));
  cuda::to_host(array.data(), values.data(), array.count() * static_cast<int64_t>(sizeof(T)), nullptr);
  return values;
}

}  // namespace grinqh::testing
