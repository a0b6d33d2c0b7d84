// Collectors of statistics where the activations are: a device's module brings its own, under the names that
// the CPU's are registered by.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "core/device.h"

namespace grinqh {

class Transformer;

// The transformer, whose activations are observed, outlives the collector.
template <class Base>
using MakeCollector = std::function<std::unique_ptr<Base>(const Transformer&)>;

template <class Base>
std::map<std::pair<Device, std::string>, MakeCollector<Base>>& device_collectors() {
  static std::map<std::pair<Device, std::string>, MakeCollector<Base>> table;
  return table;
}

template <class Base, class T>
struct RegisterDeviceCollector {
  RegisterDeviceCollector(Device device, const char* name) {
    device_collectors<Base>().insert_or_assign(
        {device, name}, [](const Transformer& transformer) { return std::make_unique<T>(transformer); });
  }
};

}  // namespace grinqh
