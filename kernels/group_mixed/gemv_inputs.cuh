// Inputs as 16-bit integers with a scale a group, high and low signed byte apart, in the order of the chunks
// of gemv_order.h.
#pragma once

#include "cuda/gemv_operands.cuh"
#include "cuda/split_integers.cuh"
#include "kernels/group_mixed/gemv_order.h"

namespace grinqh::cuda {

// In shared memory.
//   bytes   a column is 32 bytes: 8 inputs of each t. [step][q][token][high, low]
//   groups  [token][group]: what an integer is worth, the sum of the integers
//   squares [token][warp]: of a token that is still to be normalized
//   places  [group]: which of the layer's groups it is, -1: none
struct MixedInputs {
  uint8_t* bytes;
  float2* groups;
  float* squares;
  const int16_t* places;
  int tokens, group_count;
  int share_bits;  // log2 of the threads that have a group together, 8 inputs each
};

// For all threads of a block. A normalized token's factor is left to the sums.
template <class T>
__device__ void make_mixed_inputs(const GemvInput& input, int in, const MixedInputs& to) {
  constexpr int kBatch = 4;  // loads under way before the first is used
  const int items = to.group_count << to.share_bits, share = 1 << to.share_bits;
  for (int token = 0; token < to.tokens; ++token) {
    float square = 0;
    for (int first = threadIdx.x; first < items; first += kBatch * blockDim.x) {
      float all[kBatch][8];
#pragma unroll
      for (int n = 0; n < kBatch; ++n) {
        const int item = first + n * blockDim.x;
        const int group = item < items ? to.places[item >> to.share_bits] : -1;
        const int from = group < 0 ? in : group << to.share_bits | (item & (share - 1));
        load_unscaled_inputs<T>(input, in, token, from, all[n], square);
      }
#pragma unroll
      for (int n = 0; n < kBatch; ++n) {
        const int item = first + n * blockDim.x;
        if (item >= items) break;  // whole warps
        const float most = greatest_of(all[n], share);
        uint2 high, low;
        int sum = split_integers(all[n], most > 0 ? __fdividef(kMostSplit, most) : 0.0f, high, low);
        for (int other = 1; other < share; other *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);

        const int group = item >> to.share_bits, t = item % 4;
        const int step = (group / 4 << to.share_bits | (item & (share - 1))) / 4;
        uint8_t* column = to.bytes + ((step * 4 + group % 4) * to.tokens + token) * 64 + t * 8;
        *reinterpret_cast<uint2*>(column) = high;
        *reinterpret_cast<uint2*>(column + 32) = low;
        if ((item & (share - 1)) == 0)
          to.groups[token * to.group_count + group] =
              make_float2(most * (1.0f / kMostSplit), static_cast<float>(sum));
      }
    }
    store_squares(input, square, to.squares + token * (blockDim.x / 32));
  }
}

}  // namespace grinqh::cuda
