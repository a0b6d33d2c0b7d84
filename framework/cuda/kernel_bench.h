// Timing of the GPU's decoding kernels.
#pragma once

#include <memory>

#include "runtime/kernel_bench.h"

namespace grinqh::cuda {

std::unique_ptr<KernelBench> make_kernel_bench(const DeviceChoice& device);

}  // namespace grinqh::cuda
