// Timing of the CPU's decoding kernels.
#pragma once

#include "runtime/kernel_bench.h"

namespace grinqh {

std::unique_ptr<KernelBench> make_host_kernel_bench();

// Bytes that the processor's last cache holds; 0 if the system does not tell.
int64_t last_cache_bytes();

}  // namespace grinqh
