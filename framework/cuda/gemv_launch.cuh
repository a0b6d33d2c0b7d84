// Launches of the kernels that stream weights through shared memory.
#pragma once

#include "cuda/gemv_operands.h"
#include "cuda/launch.cuh"

namespace grinqh::cuda {

// Shared memory of a block, at most: alone on a multiprocessor; with the next launch's block beside it, which
// fetches its first weights while this one works.
constexpr int kMostShared = 227 * 1024, kHalfShared = 113 * 1024;
// Of a block that cannot have another of its launch beside it, but may have one of half.
constexpr size_t kMoreThanHalfShared = kHalfShared + 128;

inline size_t shared_bytes_behind(const GemvInput& input, size_t bytes) {
  return input.unevenly_made && bytes < kMoreThanHalfShared ? kMoreThanHalfShared : bytes;
}

// With as much shared memory on a multiprocessor as it can have: else it keeps no more than one block needs,
// and the next launch finds no room.
template <class... Parameters, class... Arguments>
void launch_streaming(const char* name, void (*kernel)(Parameters...), const LaunchShape& shape,
                      Stream stream, Arguments... arguments) {
  const auto set = [&](cudaFuncAttribute attribute, int value) {
    check_call(cudaFuncSetAttribute(kernel, attribute, value), "cudaFuncSetAttribute");
  };
  set(cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes));
  set(cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  launch_early(name, kernel, shape, stream, arguments...);
}

// run(input, output) of all tokens, or, if it says false because so many are too many at once, of half as
// many at a time; it must not of a single one.
template <class Run>
void run_by_tokens(const GemvInput& input, const GemvOutput& output, const Run& run) {
  const ConstView& x = input.x;
  for (int64_t first = 0; first < x.rows;) {
    GemvInput some = input;
    GemvOutput there = output;
    some.x.data = static_cast<const char*>(x.data) + first * x.stride * size_of(x.type);
    some.x.rows = x.rows - first;
    const auto done = [&] {
      there.y = output.y.rows_between(first, first + some.x.rows);
      return run(some, there);
    };
    while (!done()) some.x.rows = (some.x.rows + 1) / 2;
    first += some.x.rows;
  }
}

}  // namespace grinqh::cuda
