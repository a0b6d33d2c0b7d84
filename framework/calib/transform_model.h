// A model through transforms, one after the other, each exact in float and checked so.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/device.h"
#include "model/model.h"
#include "quant/model_transform.h"

namespace grinqh {

struct NamedTransform {
  std::string name;  // for messages
  std::unique_ptr<ModelTransform> transform;
};

struct TransformedModel {
  Model model;
  // ||logits - logits of the float model|| / ||logits of the float model|| on the first calibration tokens.
  double logits_error = 0;
};

// windows: calibration tokens [count, context], at least one window. Error naming the transform if the
// logits are not those of `model` to a relative error of 1e-4, which is looked at in float32.
TransformedModel transform_model(const Model& model, const std::vector<NamedTransform>& transforms,
                                 Matrix<const int32_t> windows, uint64_t seed, bool shows_progress = true,
                                 const DeviceChoice& device = {});

}  // namespace grinqh
