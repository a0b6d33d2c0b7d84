#include "core/plugin_library.h"

#include <dlfcn.h>

#include <string>

#include "core/error.h"

namespace grinqh {

void load_plugin_libraries(std::string_view paths) {
  while (!paths.empty()) {
    const size_t end = paths.find(':');
    const std::string path(paths.substr(0, end));
    paths.remove_prefix(end == std::string_view::npos ? paths.size() : end + 1);
    if (path.empty()) continue;
    // Never closed: its objects stay registered to the end.
    if (!dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL)) bad_input("GRINQH_PLUGINS: {}", dlerror());
  }
}

}  // namespace grinqh
