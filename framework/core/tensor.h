// Activations wherever a transformer keeps them: views and their owner. On the CPU they are float32 and also
// a Matrix; elsewhere the element type is the device's choice, and only code for that device looks inside.
#pragma once

#include <memory>

#include "core/device.h"
#include "core/dtype.h"
#include "core/error.h"
#include "core/matrix.h"

namespace grinqh {

// Row-major, rows are tokens; `Data` is void or const void.
template <class Data>
struct ActivationView {
  Data* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;  // elements from one row to the next
  DType type = DType::f32;
  Device device = Device::cpu;

  using Float = std::conditional_t<std::is_const_v<Data>, const float, float>;

  ActivationView() = default;
  ActivationView(Data* data, int64_t rows, int64_t cols, int64_t stride, DType type, Device device)
      : data(data), rows(rows), cols(cols), stride(stride), type(type), device(device) {}
  ActivationView(Matrix<Float> m) : data(m.data), rows(m.rows), cols(m.cols), stride(m.stride) {}
  ActivationView(const MatrixBuffer<float>& m) : ActivationView(Matrix<Float>(m.view())) {}
  template <class Other>
  requires(std::is_const_v<Data> && !std::is_const_v<Other>)
      ActivationView(const ActivationView<Other>& other)
      : ActivationView(other.data, other.rows, other.cols, other.stride, other.type, other.device) {}
  ActivationView(Matrix<float> m) requires(std::is_const_v<Data>) : ActivationView(Matrix<const float>(m)) {}

  // Of activations on the CPU.
  Matrix<Float> matrix() const {
    check(device == Device::cpu && type == DType::f32, "activations on the CPU");
    return {static_cast<Float*>(data), rows, cols, stride};
  }
  operator Matrix<Float>() const { return matrix(); }

  bool empty() const { return rows == 0 || cols == 0; }
  ActivationView rows_between(int64_t begin, int64_t end) const {
    ActivationView part = *this;
    part.data = shifted(begin * stride);
    part.rows = end - begin;
    return part;
  }
  ActivationView cols_between(int64_t begin, int64_t end) const {
    ActivationView part = *this;
    part.data = shifted(begin);
    part.cols = end - begin;
    return part;
  }

 private:
  Data* shifted(int64_t elements) const {
    using Byte = std::conditional_t<std::is_const_v<Data>, const char, char>;
    return static_cast<Byte*>(data) + elements * size_of(type);
  }
};

using Activations = ActivationView<void>;
using ConstActivations = ActivationView<const void>;

class Tensor {
 public:
  Tensor() = default;
  Tensor(MatrixBuffer<float> host) : view_(host.view()), host_(std::move(host)) {}
  // Memory of another device, freed with `owner`.
  Tensor(std::shared_ptr<void> owner, Activations view) : view_(view), owner_(std::move(owner)) {}

  int64_t rows() const { return view_.rows; }
  int64_t cols() const { return view_.cols; }
  int64_t size() const { return view_.rows * view_.cols; }
  Activations view() const { return view_; }
  operator Activations() const { return view_; }
  operator ConstActivations() const { return view_; }

  // On the CPU.
  Matrix<float> matrix() const { return view_.matrix(); }
  operator Matrix<float>() const { return matrix(); }
  operator Matrix<const float>() const { return matrix(); }
  operator MatrixBuffer<float>() && {
    check(view_.device == Device::cpu, "activations on the CPU");
    return std::move(host_);
  }
  float* row(int64_t r) const { return matrix().row(r); }
  float* data() const { return matrix().data; }

 private:
  Activations view_;
  MatrixBuffer<float> host_;
  std::shared_ptr<void> owner_;
};

}  // namespace grinqh
