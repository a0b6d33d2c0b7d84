// What all work of one transformer on one GPU shares: the device, a stream, products, and conversions between
// the framework's activations and device views.
#pragma once

#include <memory>
#include <string>

#include "core/tensor.h"
#include "cuda/gemm.h"
#include "cuda/memory.h"
#include "cuda/transfers.h"

namespace grinqh::cuda {

int device_count();
// "NVIDIA H200, 139.8 GiB, compute capability 9.0, driver 13.0, runtime 13.0".
std::string device_description(int index);

class Context {
 public:
  // Makes the device current for the calling thread, as do its functions' callers: one context is used from
  // one thread at a time.
  Context(const DeviceChoice& choice);
  ~Context();
  Context(const Context&) = delete;

  const DeviceChoice& choice() const { return choice_; }
  // Of activations within a block, and of weights.
  Type type() const { return choice_.arithmetic == Arithmetic::float32 ? Type::f32 : Type::bf16; }
  Stream stream() const { return stream_; }
  Gemm& gemm() const { return *gemm_; }
  Transfers& transfers() const { return *transfers_; }
  void synchronize() const;

  Bytes bytes(int64_t size) const { return Bytes(size, stream_); }
  template <class T>
  Array<T> array(int64_t count) const {
    return Array<T>(count, stream_);
  }
  template <class T>
  Array<T> upload(const T* host, int64_t count) const {
    Array<T> result = array<T>(count);
    if (count > 0) to_device(host, result.data(), count * static_cast<int64_t>(sizeof(T)), stream_);
    return result;
  }
  Tensor tensor(int64_t rows, int64_t cols, Type type) const;

  // Between matrices of one shape, here or on the CPU.
  void copy(ConstActivations from, Activations to) const;

 private:
  DeviceChoice choice_;
  Stream stream_ = nullptr;
  std::unique_ptr<Gemm> gemm_;
  std::unique_ptr<Transfers> transfers_;
};

// Activations of the CUDA device as views; an internal error for those of the CPU.
View view(Activations x);
ConstView view(ConstActivations x);
Activations activations(View x);

// x in the type asked for: itself, or a converted copy that `storage` holds on to.
ConstView in_type(const Context& context, ConstView x, Type type, Bytes& storage);

// Rows of device matrices begin at multiples of 16 bytes.
inline int64_t padded(int64_t cols) { return (cols + 7) / 8 * 8; }

}  // namespace grinqh::cuda
