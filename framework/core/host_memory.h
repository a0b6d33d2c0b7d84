// How much memory of the host is left.
#pragma once

#include <cstdint>

namespace grinqh {

struct HostMemory {
  int64_t available = 0, total = 0;  // bytes, within what the process's control group may have
};
HostMemory host_memory();

}  // namespace grinqh
