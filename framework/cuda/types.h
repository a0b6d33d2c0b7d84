// What device code and its callers share. Device code sees raw pointers and shapes only, none of the
// framework's headers, so that nvcc compiles little.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace grinqh::cuda {

using Stream = cudaStream_t;

// Of elements in device memory: weights, activations.
enum class Type : uint8_t { f32, bf16 };
constexpr int64_t size_of(Type type) { return type == Type::f32 ? 4 : 2; }

// Row-major matrices in device memory; stride in elements. Rows begin at multiples of 16 bytes unless a
// function says that it does not mind.
struct ConstView {
  const void* data = nullptr;
  int64_t rows = 0, cols = 0, stride = 0;
  Type type = Type::f32;
};
struct View {
  void* data = nullptr;
  int64_t rows = 0, cols = 0, stride = 0;
  Type type = Type::f32;

  operator ConstView() const { return {data, rows, cols, stride, type}; }
  View rows_between(int64_t begin, int64_t end) const {
    return {static_cast<char*>(data) + begin * stride * size_of(type), end - begin, cols, stride, type};
  }
  View cols_between(int64_t begin, int64_t end) const {
    return {static_cast<char*>(data) + begin * size_of(type), rows, end - begin, stride, type};
  }
};

// To be called after every launch: throws Error naming the kernel if it could not be launched, or, with
// GRINQH_CUDA_SYNC=1 in the environment, if it failed.
void check_launch(const char* kernel, Stream stream);
// The same for a call of the runtime or of a library.
void check_call(cudaError_t status, const char* call);

}  // namespace grinqh::cuda
