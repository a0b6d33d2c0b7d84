#include "cuda/transfers.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/parallel.h"

namespace grinqh::cuda {

namespace {

constexpr int64_t kBuffer = int64_t{32} << 20;

}  // namespace

Transfers::Transfers() {
  for (Buffer& buffer : buffers_) {
    check_call(cudaMallocHost(reinterpret_cast<void**>(&buffer.data), kBuffer), "cudaMallocHost");
    check_call(cudaEventCreateWithFlags(&buffer.free, cudaEventDisableTiming), "cudaEventCreate");
  }
}

Transfers::~Transfers() {
  for (const Buffer& buffer : buffers_) {
    if (buffer.free) cudaEventDestroy(buffer.free);
    cudaFreeHost(buffer.data);
  }
}

void Transfers::send(const Parts& from, char* to, Stream stream) {
  if (from.bytes == 0) return;
  check(from.part <= kBuffer, "a row of a matrix fits into a transfer");
  const int64_t chunk = kBuffer / from.part * from.part;
  for (int64_t begin = 0, turn = 0; begin < from.bytes; begin += chunk, ++turn) {
    const Buffer& buffer = buffers_[turn % 2];
    const int64_t bytes = std::min(chunk, from.bytes - begin);
    check_call(cudaEventSynchronize(buffer.free), "a copy to the device");
    parallel_for((bytes + from.part - 1) / from.part, [&](int64_t i) {
      const int64_t at = i * from.part;
      std::memcpy(buffer.data + at, from.data + (begin / from.part + i) * from.stride,
                  static_cast<size_t>(std::min(from.part, bytes - at)));
    });
    check_call(
        cudaMemcpyAsync(to + begin, buffer.data, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream),
        "cudaMemcpyAsync to the device");
    check_call(cudaEventRecord(buffer.free, stream), "cudaEventRecord");
  }
}

void Transfers::receive(const char* from, const Parts& to, Stream stream) {
  if (to.bytes == 0) return;
  check(to.part <= kBuffer, "a row of a matrix fits into a transfer");
  const int64_t chunk = kBuffer / to.part * to.part, chunks = (to.bytes + chunk - 1) / chunk;
  const auto size = [&](int64_t turn) { return std::min(chunk, to.bytes - turn * chunk); };
  const auto start = [&](int64_t turn) {
    const Buffer& buffer = buffers_[turn % 2];
    check_call(cudaMemcpyAsync(buffer.data, from + turn * chunk, static_cast<size_t>(size(turn)),
                               cudaMemcpyDeviceToHost, stream),
               "cudaMemcpyAsync from the device");
    check_call(cudaEventRecord(buffer.free, stream), "cudaEventRecord");
  };
  start(0);
  for (int64_t turn = 0; turn < chunks; ++turn) {
    if (turn + 1 < chunks) start(turn + 1);
    const Buffer& buffer = buffers_[turn % 2];
    check_call(cudaEventSynchronize(buffer.free), "a copy from the device");
    parallel_for((size(turn) + to.part - 1) / to.part, [&](int64_t i) {
      const int64_t at = i * to.part;
      std::memcpy(to.data + (turn * chunk / to.part + i) * to.stride, buffer.data + at,
                  static_cast<size_t>(std::min(to.part, size(turn) - at)));
    });
  }
}

}  // namespace grinqh::cuda
