// Launches that may begin before the kernel ahead of them in the stream has ended (programmatic dependent
// launch, compute capability 9.0): everything that does not depend on it, above all fetching weights, goes
// before wait_for_inputs().
#pragma once

#include <cuda_runtime.h>

#include "cuda/types.h"

namespace grinqh::cuda {

// Every kernel that is launched by launch_early() calls this before it reads what an earlier kernel wrote,
// and before it writes what an earlier kernel may still read; all its threads do, whether they need it or
// not.
__device__ inline void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The next kernel may be brought onto the device. As early as its presence does not take room from this one.
__device__ inline void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;
  int cluster = 1;  // blocks along x that form a cluster
};

template <class... Parameters, class... Arguments>
void launch_early(const char* name, void (*kernel)(Parameters...), const LaunchShape& shape, Stream stream,
                  Arguments... arguments) {
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = static_cast<unsigned>(shape.cluster);
  attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = shape.cluster > 1 ? 2 : 1;
  check_call(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name);
  check_launch(name, stream);
}

}  // namespace grinqh::cuda
