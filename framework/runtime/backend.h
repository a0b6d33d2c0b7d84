// Who makes transformers for devices other than the CPU: modules register themselves when they are loaded.
#pragma once

#include <functional>
#include <memory>

#include "core/accelerator.h"
#include "core/device.h"
#include "core/dtype.h"
#include "model/model.h"

namespace grinqh {

class KernelBench;
class Transformer;

struct Backend {
  std::function<std::unique_ptr<Transformer>(const Model&, const DeviceChoice&, DType rope_frequencies)>
      make_transformer;
  // For the heavy linear algebra of methods.
  std::function<std::shared_ptr<Accelerator>(const DeviceChoice&)> make_accelerator;
  // What the device is, for the record: its name, memory, driver.
  std::function<std::string(const DeviceChoice&)> description;
  std::function<std::unique_ptr<KernelBench>(const DeviceChoice&)> make_kernel_bench;
  // The most memory of the device that this process held at a time.
  std::function<int64_t(const DeviceChoice&)> peak_bytes;
};

struct RegisterBackend {
  RegisterBackend(Device device, Backend backend);
};

// Error if none is registered.
const Backend& backend_of(Device device);

// Null on the CPU. To be installed for the time of a command (core/accelerator.h AcceleratorScope), not
// beyond main(): the device's libraries go before.
std::shared_ptr<Accelerator> make_accelerator(const DeviceChoice& device);

}  // namespace grinqh
