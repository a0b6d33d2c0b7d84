// level_errors() of quant/grading_rule.h on the device.
#pragma once

#include "cuda/transfers.h"
#include "quant/grading_rule.h"

namespace grinqh::cuda {

// weight: the task's, on the device.
void find_level_errors(const LevelTask& task, const float* weight, Transfers& transfers, Stream stream);

}  // namespace grinqh::cuda
