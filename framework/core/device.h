// Where a computation runs.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace grinqh {

enum class Device : uint8_t { cpu, cuda };
std::string_view to_string(Device device);

// What the activations of a forward pass are kept in, and with which products multiply. `native`: what the
// device is fastest at without harm (float32 on the CPU, bfloat16 with float32 accumulation on a GPU);
// `float32`: everything in float32, the reference on any device.
enum class Arithmetic : uint8_t { native, float32 };

struct DeviceChoice {
  Device device = Device::cpu;
  int index = 0;  // among the devices of its kind
  Arithmetic arithmetic = Arithmetic::native;
};

// "cpu", "cuda:0", "cuda:1 float32".
std::string to_string(const DeviceChoice& choice);

// "auto" (a GPU if this build and this machine have one, else the CPU), "cpu", "cuda" or "cuda:N", and "bf16"
// or "fp32"; `where` names the option for the message. BadInput for a device that is not to be had.
DeviceChoice parse_device(std::string_view where, std::string_view name,
                          std::string_view arithmetic = "auto");

}  // namespace grinqh
