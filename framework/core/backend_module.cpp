#include "core/backend_module.h"

#include <dlfcn.h>

#include <filesystem>

namespace grinqh {

namespace {

namespace fs = std::filesystem;

int (*count_devices)() = nullptr;

struct Loaded {
  int devices = 0;
  std::string why;
};

// Beside the program; a test program lies one folder below it.
fs::path find_module() {
  std::error_code error;
  const fs::path folder = fs::read_symlink("/proc/self/exe", error).parent_path();
  for (const fs::path& place : {folder, folder.parent_path()})
    if (fs::exists(place / "libgrinqh_cuda.so")) return place / "libgrinqh_cuda.so";
  return {};
}

Loaded load() {
  // A driver first: the module's libraries are large, and without one they are of no use.
  if (!dlopen("libcuda.so.1", RTLD_LAZY)) return {0, "this machine has no CUDA driver (libcuda.so.1)"};
  const fs::path module = find_module();
  if (module.empty())
    return {0, "this build has no CUDA backend (nvcc was not there when it was configured)"};
  if (!dlopen(module.c_str(), RTLD_NOW | RTLD_GLOBAL))
    return {0, std::string("the CUDA backend cannot be loaded: ") + dlerror()};
  const int devices = count_devices ? count_devices() : 0;
  return {devices, devices > 0 ? "" : "the CUDA driver finds no GPU"};
}

const Loaded& loaded() {
  static const Loaded once = load();
  return once;
}

}  // namespace

int cuda_devices() { return loaded().devices; }
std::string why_no_cuda() { return loaded().why; }

RegisterCudaDevices::RegisterCudaDevices(int (*count)()) { count_devices = count; }

}  // namespace grinqh
