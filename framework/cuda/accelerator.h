// The heavy linear algebra of methods on a GPU.
#pragma once

#include <memory>

#include "core/accelerator.h"

namespace grinqh::cuda {

// Error if there is no such device. Its memory is held only while a function runs: for inverse_cholesky about
// 12 bytes an element of the matrix, for search_clips about 3 GiB at most, for round_with_feedback 4 bytes an
// element of the factor and at most 2.5 GiB besides, for cluster_rows at most 3 GiB, for level_errors 8 bytes
// a weight and the layer.
std::shared_ptr<Accelerator> make_accelerator(int device);

}  // namespace grinqh::cuda
