// The key `transform` of a method: names of model transforms, or tables with a name and options, in order.
#pragma once

#include <vector>

#include "calib/transform_model.h"
#include "experiment/spec.h"
#include "quant/quantizer.h"

namespace grinqh {

// ["fold_norms", { name = "rotate_pca", weighting = "equal" }]. BadInput for anything else.
std::vector<PluginSpec> read_transforms(const Setting& setting);
// What a quantizer rests on where the method has no such key. `where`: the quantizer's place in the file.
std::vector<PluginSpec> transforms_of(const Quantizer& quantizer, const std::string& where);

// In the same form, every default written out: for digests, results and files.
Json to_json(const std::vector<PluginSpec>& transforms);

// Tries them on a small random model: what they get wrong together shows before anything is computed.
// BadInput with their place in the file.
void rehearse_transforms(const std::vector<PluginSpec>& transforms);

// The model as the transforms leave it. windows: of the calibration.
TransformedModel apply_transforms(const std::vector<PluginSpec>& transforms, const Model& model,
                                  Matrix<const int32_t> windows, uint64_t seed,
                                  const DeviceChoice& device = {}, bool shows_progress = true);

}  // namespace grinqh
