// Where a result came from: what `grinqh verify` and a reader years later need to know.
#pragma once

#include <map>
#include <string>

namespace grinqh {

// Version, commit, dirty tree, host, processor, compiler, libraries, threads and time, as text.
std::map<std::string, std::string> environment_provenance();

}  // namespace grinqh
