// What decides about launches on a device.
#pragma once

namespace grinqh::cuda {

struct DeviceProperties {
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
};
DeviceProperties device_properties(int device);
DeviceProperties device_properties();  // of the current device

}  // namespace grinqh::cuda
