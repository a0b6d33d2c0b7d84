// The CUDA backend as a module that is loaded when it is first asked for (cmake/GrinqhCuda.cmake): its
// registration objects run then.
#pragma once

#include <string>

namespace grinqh {

// GPUs that can be computed on. 0 without the module, a driver or a GPU; the module is loaded only where a
// driver is.
int cuda_devices();
// Why there are none: what a user can mend.
std::string why_no_cuda();

// What the module calls when it is loaded.
struct RegisterCudaDevices {
  explicit RegisterCudaDevices(int (*count)());
};

}  // namespace grinqh
