#include "core/device.h"

#include "core/error.h"

namespace grinqh {

std::string_view to_string(Device device) { return device == Device::cpu ? "cpu" : "cuda"; }

Device parse_device(std::string_view where, std::string_view name) {
  if (name == "auto" || name == "cpu") return Device::cpu;
  bad_input("{}: device '{}': this build runs on 'auto' or 'cpu'", where, name);
}

}  // namespace grinqh
