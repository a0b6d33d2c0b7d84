#include "cli/registries.h"

#include "core/registry.h"
#include "eval/evaluator.h"
#include "model/architecture.h"
#include "quant/gemv.h"
#include "quant/gradient_collector.h"
#include "quant/kernel_table.h"
#include "quant/model_transform.h"
#include "quant/precision_policy.h"
#include "quant/quantizer.h"

namespace grinqh {

namespace {

template <class Base>
void add_registry(const std::string& kind, std::vector<Listed>& all) {
  for (const std::string& name : Registry<Base>::get().names()) {
    const auto& entry = Registry<Base>::get().at(name);
    all.push_back({kind, name, entry.summary, entry.options});
  }
}

template <class Base>
void report_conflicts() {
  for (const std::string& name : Registry<Base>::get().conflicts())
    bad_input("two plugins register {} '{}'", Base::kind, name);
}

}  // namespace

const std::vector<std::string>& listed_kinds() {
  static const std::vector<std::string> kinds{"models",     "transforms", "quantizers", "policies",
                                              "evaluators", "collectors", "layouts",    "kernels"};
  return kinds;
}

std::vector<Listed> list_registered() {
  std::vector<Listed> all;
  for (const auto& [name, architecture] : architectures())
    all.push_back({"models", name, "architecture", {}});
  add_registry<ModelTransform>("transforms", all);
  add_registry<Quantizer>("quantizers", all);
  add_registry<PrecisionPolicy>("policies", all);
  add_registry<Evaluator>("evaluators", all);
  add_registry<Collector>("collectors", all);
  add_registry<DriftCollector>("collectors", all);
  add_registry<GradientCollector>("collectors", all);
  for (const auto& [name, info] : layouts()) all.push_back({"layouts", name, info.summary, {}});
  for (const Kernel& kernel : kernels())
    all.push_back({"kernels",
                   fmt::format("{}/{}/{}", kernel.layout, to_string(kernel.device), kernel.name),
                   kernel.summary,
                   {}});
  return all;
}

void report_registration_conflicts() {
  report_conflicts<ModelTransform>();
  report_conflicts<Quantizer>();
  report_conflicts<PrecisionPolicy>();
  report_conflicts<Evaluator>();
  report_conflicts<Collector>();
  report_conflicts<DriftCollector>();
  report_conflicts<GradientCollector>();
  for (const std::string& name : gemv_conflicts()) bad_input("two plugins register kernel '{}'", name);
}

}  // namespace grinqh
