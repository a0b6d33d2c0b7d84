// One JSON type for configuration files, resolved options, reports and provenance. `Json` keeps the order
// of insertion, so that what is written reads as its author arranged it.
#pragma once

#include <nlohmann/json.hpp>

namespace grinqh {

using Json = nlohmann::ordered_json;

}  // namespace grinqh
