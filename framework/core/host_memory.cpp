#include "core/host_memory.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>

namespace grinqh {

namespace {

// Of a file that holds one; -1 if there is none.
int64_t number_in(const char* path) {
  std::ifstream file(path);
  int64_t value = -1;
  return file >> value ? value : -1;
}

// "MemAvailable:   123 kB"
int64_t available_in_all() {
  std::ifstream file("/proc/meminfo");
  for (std::string name, unit; file >> name;) {
    int64_t value = 0;
    file >> value;
    std::getline(file, unit);
    if (name == "MemAvailable:") return value * 1024;
  }
  return sysconf(_SC_AVPHYS_PAGES) * sysconf(_SC_PAGE_SIZE);
}

}  // namespace

HostMemory host_memory() {
  HostMemory memory{available_in_all(), sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGE_SIZE)};
  const int64_t most = number_in("/sys/fs/cgroup/memory.max"),
                used = number_in("/sys/fs/cgroup/memory.current");
  if (most > 0 && most < memory.total) {
    memory.total = most;
    if (used >= 0) memory.available = std::min(memory.available, std::max<int64_t>(0, most - used));
  }
  return memory;
}

}  // namespace grinqh
