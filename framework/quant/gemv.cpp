#include "quant/gemv.h"

#include <algorithm>
#include <utility>

#define HWY_WANT_AVX3_DL  // as the kernels have it
#include <hwy/highway.h>

#include "core/error.h"
#include "quant/gemv_table.h"

namespace grinqh {

namespace {

GemvTable<GemvKernel>& table() {
  static GemvTable<GemvKernel> kernels;
  return kernels;
}

}  // namespace

void Gemv::check_call(Matrix<const float> x, const Precision& precision, Matrix<float> y) const {
  check(x.cols == in_ && y.cols == out_ && x.rows == y.rows && x.rows <= kMaxGemvTokens, "gemv: shapes");
  check(precision.levels.empty() || (precision.levels.rows == x.rows && precision.levels.cols == in_),
        "gemv: levels of every token");
}

RegisterGemv::RegisterGemv(std::string_view layout, std::string_view name, std::string_view summary,
                           MakeGemv make, GemvKernel::Grades grades) {
  table().add({std::string(layout), std::string(name), std::string(summary), std::move(make), grades});
}

std::vector<GemvKernel> gemv_kernels(std::string_view layout) { return table().of(layout); }

std::unique_ptr<Gemv> make_gemv(const QuantizedLinear& layer, bool graded) {
  for (const GemvKernel& kernel : gemv_kernels(layer.layout())) {
    if (graded && kernel.grades == GemvKernel::Grades::no) continue;
    if (auto gemv = kernel.make(layer)) return gemv;
  }
  return nullptr;
}

const std::vector<std::string>& gemv_conflicts() { return table().conflicts(); }

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
