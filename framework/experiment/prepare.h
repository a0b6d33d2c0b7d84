// One method made ready to run: what a sweep does for each of its points, and other commands for their only
// one.
#pragma once

#include <memory>
#include <string>

#include "calib/calibrate.h"
#include "experiment/spec.h"
#include "quant/precision_policy.h"

namespace grinqh {

// The method's policy, prepared for every layer that was quantized. windows: of the calibration, for a policy
// that tunes or trains; not looked at otherwise.
std::unique_ptr<PrecisionPolicy> prepare_policy(const MethodSpec& method, const Transformer& transformer,
                                                const Calibrated& calibrated, Matrix<const int32_t> windows);

// Exactly one method from what a user wrote on a command line: the keys of a [[methods]] table as on one
// line, 'quantizer = "rtn", bits = 4', or on several without the commas; or the path of a .toml file with
// such keys, or with one [[methods]] table. BadInput for a sweep axis: it stands for several methods.
MethodSpec read_single_method(const std::string& text);
// The same of a text that may stand for several, in the order of the sweep.
std::vector<MethodSpec> read_methods(const std::string& text);

}  // namespace grinqh
