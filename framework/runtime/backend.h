// Who makes transformers for devices other than the CPU: modules register themselves when they are loaded.
#pragma once

#include <functional>
#include <memory>

#include "core/device.h"
#include "core/dtype.h"
#include "model/model.h"

namespace grinqh {

class Transformer;

struct Backend {
  std::function<std::unique_ptr<Transformer>(const Model&, const DeviceChoice&, DType rope_frequencies)>
      make_transformer;
  // What the device is, for the record: its name, memory, driver.
  std::function<std::string(const DeviceChoice&)> description;
};

struct RegisterBackend {
  RegisterBackend(Device device, Backend backend);
};

// Error if none is registered.
const Backend& backend_of(Device device);

}  // namespace grinqh
