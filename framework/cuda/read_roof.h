// Kernels that read memory and do nothing else: the roof of those that read weights.
#pragma once

#include <string>
#include <vector>

#include "cuda/types.h"

namespace grinqh::cuda {

struct ReadKernel {
  std::string name;
  bool early = false;  // may begin before the kernel ahead of it has ended, as decoding kernels do
  int index = 0;
};

// Those that this device runs.
std::vector<ReadKernel> read_kernels();

// Reads `bytes` from `data`, both multiples of 16. sink: 4 bytes, not written in practice.
void read_only(const ReadKernel& kernel, const void* data, int64_t bytes, void* sink, int multiprocessors,
               Stream stream);

// Random bits; `bytes` a multiple of 16.
void fill_random(void* data, int64_t bytes, uint32_t seed, Stream stream);

}  // namespace grinqh::cuda
