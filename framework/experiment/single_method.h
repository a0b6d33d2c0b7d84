// A model through one method from beginning to end, without a sweep's caches: for commands that need the
// result at once. Also through several that differ in their policies alone: one quantization.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "calib/calibrate.h"
#include "calib/transform_model.h"
#include "experiment/spec.h"
#include "quant/precision_policy.h"

namespace grinqh {

// Calibration windows as such commands take them: few, as someone waits for the answer.
struct QuickCalibration {
  std::string text = "self";  // a path, or "self": drawn from the model
  int64_t windows = 32, context = 256;
  uint64_t seed = 0;
};

// Seconds of what was done.
struct MethodSeconds {
  double windows = 0;    // drawing or reading calibration tokens
  double transform = 0;  // of the model
  double calibrate = 0;  // running the model, collecting
  double quantize = 0;   // finding codes and packing them in their layout
  double policy = 0;     // preparing it, trying decisions and schedules
};

class SingleMethod {
 public:
  // All outlive it. BadInput and Error as the parts throw them.
  SingleMethod(const MethodSpec& method, const Transformer& transformer, const QuickCalibration& calibration)
      : SingleMethod(std::span(&method, 1), transformer, calibration) {}
  // methods: at least one, quantize_alike() all.
  SingleMethod(std::span<const MethodSpec> methods, const Transformer& transformer,
               const QuickCalibration& calibration);

  // What its layers are those of: the transformer given, or one of the transformed model.
  const Transformer& subject() const { return its_transformer_ ? *its_transformer_ : transformer_; }
  const QuantizedModel& model() const { return calibrated_.model; }
  const PrecisionPolicy& policy(size_t method = 0) const { return *policies_[method]; }
  // For generating, by the first method's policy.
  std::unique_ptr<QuantizedExecutor> linears() const {
    return subject().decoding_linears(model(), policies_.front().get(), prefill_level_);
  }
  const MethodSeconds& seconds() const { return seconds_; }

 private:
  const Transformer& transformer_;
  std::optional<TransformedModel> transformed_;
  std::unique_ptr<Transformer> its_transformer_;
  Calibrated calibrated_;
  std::vector<std::unique_ptr<PrecisionPolicy>> policies_;
  Level prefill_level_;
  MethodSeconds seconds_;
};

// Whether they store the same bits: all is equal but the policies.
bool quantize_alike(const MethodSpec& a, const MethodSpec& b);

// One layer that needs no statistics, by a method's quantizer: an output head.
std::unique_ptr<QuantizedLinear> quantize_alone(const MethodSpec& method, const std::string& id,
                                                const TensorView& weight);

}  // namespace grinqh
