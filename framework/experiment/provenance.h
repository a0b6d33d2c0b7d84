// Where a result came from: what `grinqh verify` and a reader years later need to know.
#pragma once

#include <map>
#include <string>

#include "core/device.h"

namespace grinqh {

// Version, commit, dirty tree, host, processor, device, compiler, libraries, threads and time, as text.
std::map<std::string, std::string> environment_provenance(const DeviceChoice& device);

}  // namespace grinqh
