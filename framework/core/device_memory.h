// Memory of a device.
#pragma once

#include <cstdint>

namespace grinqh {

struct DeviceMemory {
  int64_t free = 0, total = 0;  // bytes; free: what can be asked for
};

}  // namespace grinqh
