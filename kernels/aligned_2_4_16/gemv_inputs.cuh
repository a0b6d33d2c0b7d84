// Inputs as integers, as gemv_products.cuh needs them.
#pragma once

#include "cuda/gemv_operands.cuh"
#include "kernels/aligned_2_4_16/gemv_scales.cuh"

namespace grinqh::cuda {

// Of all tokens, in shared memory.
struct InputMemory {
  uint8_t* x;
  float* scales;          // [tokens][slots], times what GroupScales wants
  int* sums;              // [tokens][slots], negative
  const int16_t* groups;  // [slots]: which lies in a slot, -1: none
  float* scratch;
};

// x of a token as integers, in the order of the units: of every slot its scale and its sum.
template <int kTokens, class T>
__device__ void quantize_inputs(const GemvInput& input, int in, const Aligned2416Order& order, int token,
                                const InputMemory& memory) {
  const int slots = order.slots(), threads = blockDim.x;
  const float factor = input_factor<T>(input, in, token, memory.scratch);
  constexpr int kBatch = 2;  // loads under way before the first is used
  // A thread takes half a slot; whole warps leave the loop.
  const int items = slots * 2, whole = (items + 31) / 32 * 32;
  for (int first = threadIdx.x; first < whole; first += kBatch * threads) {
    float all[kBatch][8];
#pragma unroll
    for (int n = 0; n < kBatch; ++n) {
      const int item = first + n * threads;
      const int group = item < items ? memory.groups[item / 2] : -1;
      const int from = group < 0 ? (in + 7) / 8 : group * 2 + item % 2;  // beyond the end are zeros
      load_inputs<T>(input, in, token, from, factor, all[n]);
    }
#pragma unroll
    for (int n = 0; n < kBatch; ++n) {
      const int item = first + n * threads, slot = item / 2, half = item % 2;
      if (item >= whole) break;
      const float(&v)[8] = all[n];
      float most = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) most = fmaxf(most, fabsf(v[i]));
      most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 1));
      // The high byte of 32512 + 128 is still 127. Adding 3 * 2^22 leaves the rounded integer in the low
      // bits.
      const float inverse = most > 1e-30f ? __fdividef(32512.0f, most) : 0.0f;
      constexpr float kRound = 12582912.0f;
      uint32_t high[2] = {}, low[2] = {}, sum = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const uint32_t rounded = __float_as_uint(fmaf(v[i], inverse, kRound));
        sum += rounded;
        high[i / 4] |= (rounded + 128 >> 8 & 0xffu) << i % 4 * 8;
        low[i / 4] |= (rounded & 0xffu) << i % 4 * 8;
      }
      int total = static_cast<int>(sum - 8u * 0x4b400000u);
      total += __shfl_xor_sync(kAllLanes, total, 1);
      if (item >= items) continue;

      const Aligned2416Order::Place place = order.place_of(slot);
      const int stride = place.steps * 4;  // between words of a step
      uint8_t* to = memory.x + place.first * (32 * kTokens) + place.step * 4 +
                    ((place.q * kTokens + token) * 8 + half * 2) * stride;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        *reinterpret_cast<uint32_t*>(to + i * stride) = high[i];
        *reinterpret_cast<uint32_t*>(to + (4 + i) * stride) = low[i];
      }
      const bool wide = slot >= order.narrow_slots();
      const int power =
          wide ? GroupScales<true>::input_power(place.step) : GroupScales<false>::input_power(place.step);
      if (half == 0) {
        memory.scales[token * slots + slot] = most * (1.0f / 32512.0f) * power_of_two(power);
        memory.sums[token * slots + slot] = -total;
      }
    }
  }
}

}  // namespace grinqh::cuda
