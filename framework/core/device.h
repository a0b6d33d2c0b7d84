// Where a computation runs.
#pragma once

#include <cstdint>
#include <string_view>

namespace grinqh {

enum class Device : uint8_t { cpu, cuda };
std::string_view to_string(Device device);

// "auto", "cpu" or "cuda"; `where` names the option for the message. BadInput for a device that this build
// does not run on.
Device parse_device(std::string_view where, std::string_view name);

}  // namespace grinqh
