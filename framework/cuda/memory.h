// Owned device memory, from the device's pool.
#pragma once

#include <memory>
#include <span>

#include "core/device_memory.h"
#include "cuda/types.h"

namespace grinqh::cuda {

// Uninitialized; Error naming the bytes asked for and those that were free if there are not enough.
class Bytes {
 public:
  Bytes() = default;
  explicit Bytes(int64_t size, Stream stream = nullptr);
  ~Bytes();
  Bytes(Bytes&& other) noexcept;
  Bytes& operator=(Bytes&& other) noexcept;

  void* data() const { return data_; }
  int64_t size() const { return size_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  int64_t size_ = 0;
  Stream stream_ = nullptr;  // on which it is freed
};

// `count` elements.
template <class T>
class Array {
 public:
  Array() = default;
  explicit Array(int64_t count, Stream stream = nullptr)
      : bytes_(count * static_cast<int64_t>(sizeof(T)), stream), count_(count) {}
  T* data() const { return bytes_.as<T>(); }
  int64_t count() const { return count_; }

 private:
  Bytes bytes_;
  int64_t count_ = 0;
};

// host: pageable memory, which CUDA copies to a buffer of its own before this returns, while the stream's
// earlier work may still run.
void to_device(const void* host, void* device, int64_t bytes, Stream stream);
// Waits for it.
void to_host(const void* device, void* host, int64_t bytes, Stream stream);
// As much new device memory with the same in it.
Bytes copy_of(const Bytes& bytes, Stream stream);
template <class T>
Bytes uploaded(std::span<const T> host, Stream stream) {
  Bytes device(static_cast<int64_t>(host.size_bytes()), stream);
  if (!host.empty()) to_device(host.data(), device.data(), device.size(), stream);
  return device;
}
void fill_zero(void* device, int64_t bytes, Stream stream);

struct MemoryState {
  int64_t free, total;
};
MemoryState memory_state();
// The most that `Bytes` of a device held at a time.
int64_t peak_bytes(int device);
// Of a device, what its pool keeps for coming allocations counted as free.
DeviceMemory free_memory(int device);

}  // namespace grinqh::cuda
