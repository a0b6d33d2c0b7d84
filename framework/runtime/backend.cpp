#include "runtime/backend.h"

#include <map>

#include "core/error.h"
#include "runtime/transformer.h"

namespace grinqh {

namespace {

std::map<Device, Backend>& backends() {
  static std::map<Device, Backend> table;
  return table;
}

}  // namespace

RegisterBackend::RegisterBackend(Device device, Backend backend) {
  backends().insert_or_assign(device, std::move(backend));
}

const Backend& backend_of(Device device) {
  const auto found = backends().find(device);
  if (found == backends().end()) fail("no backend for the device {}", to_string(device));
  return found->second;
}

std::shared_ptr<Accelerator> make_accelerator(const DeviceChoice& device) {
  if (device.device == Device::cpu) return nullptr;
  return backend_of(device.device).make_accelerator(device);
}

std::optional<DeviceMemory> device_memory(const DeviceChoice& device) {
  if (device.device == Device::cpu) return std::nullopt;
  return backend_of(device.device).memory(device);
}

std::unique_ptr<Transformer> make_transformer(const Model& model, const DeviceChoice& device,
                                              DType rope_frequencies) {
  if (device.device == Device::cpu) return std::make_unique<Transformer>(model, rope_frequencies);
  return backend_of(device.device).make_transformer(model, device, rope_frequencies);
}

}  // namespace grinqh
