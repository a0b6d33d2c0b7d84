// Lets a policy try its decisions block by block on calibration windows.
#pragma once

#include "calib/calibrate.h"
#include "quant/precision_policy.h"

namespace grinqh {

// Windows that trials run on: enough to rank decisions, few enough to try hundreds.
inline constexpr int64_t kTrialWindows = 2;

// Calls policy.tune() for every block, first to last, if the policy tunes. A block sees the float model's
// inputs; every token counts as decoded. windows: [count, context], of which the first kTrialWindows are
// used.
void tune_on_blocks(const Transformer& transformer, const QuantizedModel& quantized,
                    Matrix<const int32_t> windows, PrecisionPolicy& policy);

}  // namespace grinqh
