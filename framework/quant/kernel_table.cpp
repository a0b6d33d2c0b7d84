#include "quant/kernel_table.h"

#include "core/error.h"

namespace grinqh {

namespace {
std::vector<Kernel>& kernel_list() {
  static std::vector<Kernel> list;
  return list;
}
}  // namespace

RegisterKernel::RegisterKernel(Kernel kernel) { kernel_list().push_back(std::move(kernel)); }

const std::vector<Kernel>& kernels() { return kernel_list(); }

const Kernel& find_kernel(std::string_view layout, Device device, std::string_view name) {
  const Kernel* found = nullptr;
  for (const Kernel& kernel : kernel_list())
    if (kernel.layout == layout && kernel.device == device && (name.empty() || kernel.name == name))
      found = &kernel;
  if (!found)
    fail("no kernel {}for layout '{}' on {}", name.empty() ? "" : fmt::format("'{}' ", name), layout,
         to_string(device));
  return *found;
}

}  // namespace grinqh
