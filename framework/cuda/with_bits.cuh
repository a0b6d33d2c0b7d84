// Device code made for every width of a code, chosen where the width becomes known.
#pragma once

namespace grinqh::cuda {

// run<kBits>(), 1 to 8.
template <class Run>
__device__ __forceinline__ void with_bits(int bits, const Run& run) {
  switch (bits) {
    case 1:
      return run.template operator()<1>();
    case 2:
      return run.template operator()<2>();
    case 3:
      return run.template operator()<3>();
    case 4:
      return run.template operator()<4>();
    case 5:
      return run.template operator()<5>();
    case 6:
      return run.template operator()<6>();
    case 7:
      return run.template operator()<7>();
    default:
      return run.template operator()<8>();
  }
}

}  // namespace grinqh::cuda
