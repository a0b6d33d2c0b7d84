// Policies that find their schedule by trial (PrecisionPolicy::plan) get what they try it on.
#pragma once

#include <functional>

#include "calib/schedule_trial.h"
#include "experiment/spec.h"

namespace grinqh {

struct PlanSources {
  // Windows of the calibration text: [count, context].
  std::function<MatrixBuffer<int32_t>(int64_t count, int64_t context)> calibration_windows;
  ValueStore& store;  // for this quantization, text and prefill level
};

// What the policy of a method wants to try its schedules on.
ValidationText validation_of(const MethodSpec& method);
// The text's digest and the windows, for keys of what depends on them; null if nothing is tried. BadInput if
// the file cannot be read.
Json validation_identity(const MethodSpec& method);

// Lets the policy, prepared by then, find its schedule. BadInput for a validation text that is too short or
// windows that are too long for the model.
void plan_policy(PrecisionPolicy& policy, const MethodSpec& method, const Transformer& transformer,
                 const QuantizedModel& quantized, const PlanSources& sources);

}  // namespace grinqh
