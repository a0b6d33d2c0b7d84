// An architecture is a declaration: how its config.json differs from the common decoder. One file each in
// model/ (architecture_*.cpp) registers itself; the names of the tensors are the common ones.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "model/json_reader.h"

namespace grinqh {

// Adjusts what the common reader found; throws BadInput for what the architecture allows and we do not run.
using Architecture = std::function<void(const JsonObject& config_json, ModelConfig& config)>;

struct RegisterArchitecture {
  RegisterArchitecture(std::string_view class_name, Architecture architecture);
};

const std::map<std::string, Architecture, std::less<>>& architectures();

}  // namespace grinqh
