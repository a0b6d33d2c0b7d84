// Whether tests of device code can run here.
#pragma once

#include <cuda_runtime_api.h>

namespace grinqh::testing {

inline bool has_gpu() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

}  // namespace grinqh::testing
