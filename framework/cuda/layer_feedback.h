// quant/column_feedback.h for the matrices of a layer on the device.
#pragma once

#include "cuda/solver.h"
#include "cuda/transfers.h"
#include "quant/column_feedback.h"

namespace grinqh::cuda {

// Rounds all columns; rows are taken in slabs, so that memory stays bounded. weight: the task's, on the
// device. BadInput as the rounding on the CPU.
void round_layer(const FeedbackTask& task, const float* weight, Solver& solver, Transfers& transfers,
                 Stream stream);

}  // namespace grinqh::cuda
