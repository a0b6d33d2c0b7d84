#include "cuda/gemv.h"

#include <utility>

#include "core/error.h"
#include "quant/gemv_table.h"

namespace grinqh::cuda {

namespace {

GemvTable<GemvKernel>& table() {
  static GemvTable<GemvKernel> kernels;
  return kernels;
}

}  // namespace

RegisterGemv::RegisterGemv(std::string_view layout, std::string_view name, std::string_view summary,
                           MakeGemv make, GemvKernel::Grades grades) {
  table().add({std::string(layout), std::string(name), std::string(summary), std::move(make), grades});
}

std::vector<GemvKernel> gemv_kernels(std::string_view layout) {
  check(table().conflicts().empty(), "two kernels of one layout and name");
  return table().of(layout);
}

std::shared_ptr<Gemv> GemvStore::kernel_of(GemvLayers layers, bool graded, Stream stream) {
  const auto [found, added] = made_.try_emplace({{layers.begin(), layers.end()}, graded});
  if (!added) return found->second;
  for (const GemvKernel& kernel : gemv_kernels(layers.front()->layout())) {
    if (graded && kernel.grades == GemvKernel::Grades::no) continue;
    if ((found->second = kernel.make(layers, stream))) break;
  }
  return found->second;
}

}  // namespace grinqh::cuda
