#include "cuda/gemv.h"

#include <map>
#include <utility>

#include "core/error.h"

namespace grinqh::cuda {

namespace {

using Key = std::pair<std::string, std::string>;  // layout, name

std::map<Key, GemvKernel>& table() {
  static std::map<Key, GemvKernel> kernels;
  return kernels;
}

}  // namespace

RegisterGemv::RegisterGemv(std::string_view layout, std::string_view name, std::string_view summary,
                           MakeGemv make) {
  GemvKernel kernel{std::string(layout), std::string(name), std::string(summary), std::move(make)};
  const Key key{kernel.layout, kernel.name};
  check(table().emplace(key, std::move(kernel)).second, "two kernels of one layout and name");
}

std::vector<GemvKernel> gemv_kernels(std::string_view layout) {
  std::vector<GemvKernel> found;
  for (const auto& [key, kernel] : table())
    if (key.first == layout) found.push_back(kernel);
  return found;
}

std::shared_ptr<Gemv> GemvStore::kernel_of(GemvLayers layers, Stream stream) {
  const auto [found, added] = made_.try_emplace({layers.begin(), layers.end()});
  if (added)
    for (const GemvKernel& kernel : gemv_kernels(layers.front()->layout()))
      if ((found->second = kernel.make(layers, stream))) break;
  return found->second;
}

}  // namespace grinqh::cuda
