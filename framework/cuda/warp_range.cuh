// The least and the greatest of a warp's values, to all its lanes.
#pragma once

namespace grinqh::cuda {

__device__ inline float least_of_warp(float value) {
  for (int step = 16; step > 0; step /= 2) value = fminf(value, __shfl_xor_sync(0xffffffffu, value, step));
  return value;
}
__device__ inline float greatest_of_warp(float value) {
  for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, step));
  return value;
}

}  // namespace grinqh::cuda
