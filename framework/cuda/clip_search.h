// quant/clip_search.h for the matrices of a layer on the device.
#pragma once

#include "cuda/solver.h"
#include "cuda/transfers.h"
#include "quant/clip_search.h"

namespace grinqh::cuda {

// Rows are taken in slabs, so that memory stays bounded. BadInput as the search on the CPU.
void search_clips(const ClipTask& task, Solver& solver, Transfers& transfers, Stream stream);

}  // namespace grinqh::cuda
