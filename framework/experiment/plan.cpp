#include "experiment/plan.h"

#include "calib/calibration_windows.h"
#include "core/digest.h"
#include "core/registry.h"
#include "core/text.h"
#include "model/model_text.h"

namespace grinqh {

ValidationText validation_of(const MethodSpec& method) {
  return Registry<PrecisionPolicy>::get().make(method.policy.name, method.policy.settings)->validation();
}

Json validation_identity(const MethodSpec& method) {
  const ValidationText wanted = validation_of(method);
  if (wanted.windows == 0) return nullptr;
  return {{"text", wanted.text.empty() ? "" : digest_of(read_file(wanted.text, "validation text"))},
          {"windows", wanted.windows},
          {"context", wanted.context}};
}

void plan_policy(PrecisionPolicy& policy, const MethodSpec& method, const Transformer& transformer,
                 const QuantizedModel& quantized, const PlanSources& sources) {
  const ValidationText wanted = policy.validation();
  if (wanted.windows == 0) return;
  const ModelConfig& config = transformer.model().config;
  if (wanted.context > config.max_context)
    bad_input(
        "{}: policy '{}' tries windows of {} tokens: allowed is 2 to {}, the model's "
        "max_position_embeddings",
        method.where, method.policy.name, wanted.context, config.max_context);
  MatrixBuffer<int32_t> windows;
  if (wanted.text.empty()) {
    windows = sources.calibration_windows(wanted.windows, wanted.context);
  } else {
    const std::vector<int32_t> tokens =
        ModelText(transformer.model()).encode(read_file(wanted.text, "validation text"), wanted.text);
    if (static_cast<int64_t>(tokens.size()) < wanted.context)
      bad_input("{}: the text has {} tokens, one validation window needs {}", wanted.text, tokens.size(),
                wanted.context);
    windows = spread_windows(tokens, wanted.windows, wanted.context);
  }
  ModelTrial trial(transformer, quantized, policy, method.prefill_level, windows.view(), sources.store);
  policy.plan(trial);
}

}  // namespace grinqh
