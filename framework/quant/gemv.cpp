#include "quant/gemv.h"

#include <algorithm>
#include <map>
#include <utility>

#define HWY_WANT_AVX3_DL  // as the kernels have it
#include <hwy/highway.h>

#include "core/error.h"

namespace grinqh {

namespace {

using Key = std::pair<std::string, std::string>;  // layout, name

std::map<Key, GemvKernel>& table() {
  static std::map<Key, GemvKernel> kernels;
  return kernels;
}

std::vector<std::string>& conflicts() {
  static std::vector<std::string> names;
  return names;
}

}  // namespace

RegisterGemv::RegisterGemv(std::string_view layout, std::string_view name, std::string_view summary,
                           MakeGemv make) {
  GemvKernel kernel{std::string(layout), std::string(name), std::string(summary), std::move(make)};
  const Key key{kernel.layout, kernel.name};
  if (!table().emplace(key, std::move(kernel)).second) conflicts().push_back(key.first + "/" + key.second);
}

const std::vector<std::string>& gemv_conflicts() { return conflicts(); }

std::vector<GemvKernel> gemv_kernels(std::string_view layout) {
  std::vector<GemvKernel> found;
  for (const auto& [key, kernel] : table())
    if (key.first == layout) found.push_back(kernel);
  return found;
}

std::vector<std::string> gemv_instruction_sets() {
  static const std::vector<int64_t> targets = hwy::SupportedAndGeneratedTargets();
  std::vector<std::string> names;
  for (const int64_t target : targets) names.push_back(hwy::TargetName(target));
  return names;
}

void set_gemv_instruction_set(std::string_view name) {
  hwy::SetSupportedTargetsForTest(0);
  if (!name.empty()) {
    const std::vector<int64_t> targets = hwy::SupportedAndGeneratedTargets();
    const auto it = std::ranges::find(targets, name, hwy::TargetName);
    check(it != targets.end(), "an instruction set of gemv_instruction_sets()");
    hwy::SetSupportedTargetsForTest(*it);
  }
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace grinqh
