// Plugins outside the tree: shared libraries whose registration objects run when they are loaded.
#pragma once

#include <string_view>

namespace grinqh {

// `paths`: colon-separated shared libraries (the environment variable GRINQH_PLUGINS). BadInput names the one
// that cannot be loaded.
void load_plugin_libraries(std::string_view paths);

}  // namespace grinqh
