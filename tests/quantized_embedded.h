// An embedded model quantized by a method and its policy prepared, as a run does it.
#pragma once

#include <memory>
#include <string>

#include "calib/calibrate.h"
#include "calib/calibration_windows.h"
#include "core/progress.h"
#include "embedded_models.h"
#include "experiment/prepare.h"

namespace grinqh::testing {

// method: as on a command line, 'quantizer = "rtn", bits = 4'. Without transforms: the policy's thresholds
// are those of the model itself.
struct QuantizedEmbedded {
  QuantizedEmbedded(const std::string& model, const std::string& method, int64_t windows = 4,
                    int64_t context = 128)
      : embedded(embedded_model(model)) {
    Progress::set_enabled(false);
    const MethodSpec spec = read_single_method(method);
    const MatrixBuffer<int32_t> calibration = spread_windows(embedded.tokens, windows, context);
    CalibrationPlan plan;
    plan.windows = calibration;
    plan.kept = Registry<PrecisionPolicy>::get().make(spec.policy.name, spec.policy.settings)->needs();
    const auto quantizer = Registry<Quantizer>::get().make(spec.quantizer.name, spec.quantizer.settings);
    calibrated = calibrate_and_quantize(embedded.transformer, *quantizer, plan);
    policy = prepare_policy(spec, embedded.transformer, calibrated, calibration);
  }
  const QuantizedModel& model() const { return calibrated.model; }

  const EmbeddedModel& embedded;
  Calibrated calibrated;
  std::unique_ptr<PrecisionPolicy> policy;
};

}  // namespace grinqh::testing
