#include "cuda/device_properties.h"

#include "cuda/types.h"

namespace grinqh::cuda {

DeviceProperties device_properties(int device) {
  const auto get = [&](cudaDeviceAttr attribute) {
    int value = 0;
    check_call(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
    return value;
  };
  return {get(cudaDevAttrComputeCapabilityMajor), get(cudaDevAttrComputeCapabilityMinor),
          get(cudaDevAttrMultiProcessorCount)};
}

DeviceProperties device_properties() {
  int device = 0;
  check_call(cudaGetDevice(&device), "cudaGetDevice");
  return device_properties(device);
}

}  // namespace grinqh::cuda
