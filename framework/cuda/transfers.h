// Copies between pageable memory of the host and the device through pinned buffers, which all threads fill or
// empty while the other one travels.
#pragma once

#include "core/matrix.h"
#include "cuda/types.h"

namespace grinqh::cuda {

// For one thread at a time.
class Transfers {
 public:
  Transfers();
  ~Transfers();
  Transfers(const Transfers&) = delete;
  Transfers& operator=(const Transfers&) = delete;

  // To dense rows on the device. The host's memory may be changed afterwards; the copy goes with the stream.
  template <class T>
  void upload(Matrix<const T> from, T* to, Stream stream) {
    send(of(from), reinterpret_cast<char*>(to), stream);
  }
  // From dense rows on the device; all is there on return.
  template <class T>
  void download(const T* from, Matrix<T> to, Stream stream) {
    receive(reinterpret_cast<const char*>(from), of(to), stream);
  }

 private:
  // Parts of equal size, the last one perhaps shorter, which lie densely on the device.
  struct Parts {
    char* data;
    int64_t bytes, part, stride;  // all bytes, those of a part, from one part to the next on the host
  };
  template <class T>
  static Parts of(Matrix<T> m) {
    constexpr int64_t kPart = 1 << 20, kSize = sizeof(T);
    char* data = const_cast<char*>(reinterpret_cast<const char*>(m.data));
    if (m.stride == m.cols || m.rows <= 1) return {data, m.rows * m.cols * kSize, kPart, kPart};
    return {data, m.rows * m.cols * kSize, m.cols * kSize, m.stride * kSize};
  }
  void send(const Parts& from, char* to, Stream stream);
  void receive(const char* from, const Parts& to, Stream stream);

  struct Buffer {
    char* data = nullptr;
    cudaEvent_t free = nullptr;  // after which it can be filled again
  };
  Buffer buffers_[2];
};

}  // namespace grinqh::cuda
