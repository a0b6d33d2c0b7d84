#include "cuda/memory.h"

#include <cstdlib>
#include <utility>

#include "core/error.h"

namespace grinqh::cuda {

namespace {

bool synchronous() {
  static const bool asked = [] {
    const char* value = std::getenv("GRINQH_CUDA_SYNC");
    return value && *value == '1';
  }();
  return asked;
}

bool captured(Stream stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(stream, &status) == cudaSuccess && status != cudaStreamCaptureStatusNone;
}

}  // namespace

void check_call(cudaError_t status, const char* call) {
  if (status != cudaSuccess) fail("CUDA: {}: {}", call, cudaGetErrorString(status));
}

void check_launch(const char* kernel, Stream stream) {
  cudaError_t status = cudaGetLastError();
  if (status == cudaSuccess && synchronous() && !captured(stream)) status = cudaStreamSynchronize(stream);
  if (status != cudaSuccess) fail("CUDA: kernel {}: {}", kernel, cudaGetErrorString(status));
}

Bytes::Bytes(int64_t size, Stream stream) : size_(size), stream_(stream) {
  if (size == 0) return;
  const cudaError_t status = cudaMallocAsync(&data_, static_cast<size_t>(size), stream);
  if (status == cudaSuccess) return;
  data_ = nullptr;
  cudaGetLastError();
  const MemoryState state = memory_state();
  fail("CUDA: {} bytes of device memory are not to be had, {} of {} are free: {}", size, state.free,
       state.total, cudaGetErrorString(status));
}

Bytes::~Bytes() {
  if (data_) cudaFreeAsync(data_, stream_);
}

Bytes::Bytes(Bytes&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      stream_(other.stream_) {}

Bytes& Bytes::operator=(Bytes&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(stream_, other.stream_);
  return *this;
}

void to_device(const void* host, void* device, int64_t bytes, Stream stream) {
  check_call(cudaMemcpyAsync(device, host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream),
             "cudaMemcpyAsync to the device");
}

void to_host(const void* device, void* host, int64_t bytes, Stream stream) {
  check_call(cudaMemcpyAsync(host, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream),
             "cudaMemcpyAsync from the device");
  check_call(cudaStreamSynchronize(stream), "a copy from the device");
}

Bytes copy_of(const Bytes& bytes, Stream stream) {
  Bytes copy(bytes.size(), stream);
  if (bytes.size() == 0) return copy;
  check_call(cudaMemcpyAsync(copy.data(), bytes.data(), static_cast<size_t>(bytes.size()),
                             cudaMemcpyDeviceToDevice, stream),
             "cudaMemcpyAsync");
  return copy;
}

void fill_zero(void* device, int64_t bytes, Stream stream) {
  check_call(cudaMemsetAsync(device, 0, static_cast<size_t>(bytes), stream), "cudaMemsetAsync");
}

int64_t peak_bytes(int device) {
  cudaMemPool_t pool = nullptr;
  check_call(cudaDeviceGetDefaultMemPool(&pool, device), "cudaDeviceGetDefaultMemPool");
  uint64_t bytes = 0;
  check_call(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &bytes), "cudaMemPoolGetAttribute");
  return static_cast<int64_t>(bytes);
}

MemoryState memory_state() {
  size_t free = 0, total = 0;
  check_call(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return {static_cast<int64_t>(free), static_cast<int64_t>(total)};
}

DeviceMemory free_memory(int device) {
  check_call(cudaSetDevice(device), "cudaSetDevice");
  check_call(cudaDeviceSynchronize(), "cudaDeviceSynchronize");  // what was given back is there
  cudaMemPool_t pool = nullptr;
  uint64_t reserved = 0, used = 0;
  check_call(cudaDeviceGetDefaultMemPool(&pool, device), "cudaDeviceGetDefaultMemPool");
  check_call(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved),
             "cudaMemPoolGetAttribute");
  check_call(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used), "cudaMemPoolGetAttribute");
  const MemoryState state = memory_state();
  return {state.free + static_cast<int64_t>(reserved - used), state.total};
}

}  // namespace grinqh::cuda
