// Sums over the lanes of a warp that end where they are used.
#pragma once

namespace grinqh::cuda {

// Sums of kCount values over kLanes lanes, scattered: value v ends at lane v kLanes / kCount, where lanes
// outnumber values also at those up to the next value's; otherwise a lane holds kCount / kLanes of them in
// v[0], v[1], ... Halves what is exchanged at every step.
template <int kLanes, int kCount>
__device__ void scatter_sums(float (&v)[kCount], int lane) {
  int held = kCount;
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    if (held > 1) {
      held /= 2;
      const bool upper = lane & step;
#pragma unroll
      for (int i = 0; i < kCount / 2; ++i) {
        if (i >= held) break;
        const float kept = upper ? v[i + held] : v[i], sent = upper ? v[i] : v[i + held];
        v[i] = kept + __shfl_xor_sync(0xffffffffu, sent, step);
      }
    } else {
      v[0] += __shfl_xor_sync(0xffffffffu, v[0], step);
    }
  }
}

}  // namespace grinqh::cuda
