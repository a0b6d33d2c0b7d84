#include "core/device.h"

#include <dlfcn.h>

#include <charconv>

#include "core/backend_module.h"
#include "core/error.h"

namespace grinqh {

namespace {

Arithmetic parse_arithmetic(std::string_view where, std::string_view name) {
  if (name == "auto" || name == "bf16") return Arithmetic::native;
  if (name == "fp32") return Arithmetic::float32;
  bad_input("{}: arithmetic '{}': allowed are auto, bf16 and fp32", where, name);
}

}  // namespace

std::string_view to_string(Device device) { return device == Device::cpu ? "cpu" : "cuda"; }

std::string to_string(const DeviceChoice& choice) {
  if (choice.device == Device::cpu) return "cpu";
  return fmt::format("{}:{}{}", to_string(choice.device), choice.index,
                     choice.arithmetic == Arithmetic::float32 ? " fp32" : "");
}

DeviceChoice parse_device(std::string_view where, std::string_view name, std::string_view arithmetic) {
  DeviceChoice choice;
  choice.arithmetic = parse_arithmetic(where, arithmetic);
  if (name == "cpu") {
    if (arithmetic == "bf16") bad_input("{}: arithmetic 'bf16': the CPU has fp32 only", where);
    return choice;
  }
  if (name == "auto") {
    if (cuda_devices() > 0) choice.device = Device::cuda;
    return choice;
  }
  constexpr std::string_view kCuda = "cuda";
  std::string_view rest = name;
  if (!rest.starts_with(kCuda))
    bad_input("{}: device '{}': allowed are auto, cpu, cuda and cuda:N", where, name);
  rest.remove_prefix(kCuda.size());
  if (!rest.empty()) {
    if (rest.front() == ':') rest.remove_prefix(1);
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), choice.index);
    if (error != std::errc() || end != rest.data() + rest.size() || choice.index < 0)
      bad_input("{}: device '{}': allowed are auto, cpu, cuda and cuda:N", where, name);
  }
  const int count = cuda_devices();
  if (count == 0) bad_input("{}: device '{}': {}; 'cpu' is always there", where, name, why_no_cuda());
  if (choice.index >= count)
    bad_input("{}: device '{}': this machine has {} of them, cuda:0 to cuda:{}", where, name, count,
              count - 1);
  choice.device = Device::cuda;
  return choice;
}

}  // namespace grinqh
