// Which rows a list has, and the integers that they are multiplied by.
#pragma once

#include <cuda_bf16.h>

#include "kernels/common/async_copy.cuh"
#include "kernels/nested/gemv_shape.cuh"

namespace grinqh::cuda::nested {

__device__ inline float input_at(const ConstView& x, int token, int channel) {
  const int64_t at = token * x.stride + channel;
  return x.type == Type::f32 ? static_cast<const float*>(x.data)[at]
                             : __bfloat162float(static_cast<const __nv_bfloat16*>(x.data)[at]);
}

__device__ inline int level_of(const GradingRule& rule, float x, int channel, int in) {
  int level = rule.levels[0];
#pragma unroll
  for (int step = 0; step < 16; ++step) {
    if (step + 1 >= rule.count) break;
    const float threshold = rule.thresholds[rule.shared ? step : int64_t{step} * in + channel];
    if (!(fabsf(x) <= threshold)) level += rule.levels[step + 1] - rule.levels[step];
  }
  return level;
}

__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}
__device__ inline float power_of_two(int exponent) { return __int_as_float((127 + exponent) << 23); }
__device__ inline float half_low(uint32_t pair) {
  float value;
  asm("{ .reg .f16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low; }" : "=f"(value) : "r"(pair));
  return value;
}
__device__ inline float half_high(uint32_t pair) { return half_low(pair >> 16); }

// Factor that brings what is at most `largest` (bits) to integers.
__device__ inline float to_integers(uint32_t largest) {
  const float most = __uint_as_float(largest);
  return most > 1e-30f ? kMaxInteger / most : 0.0f;
}

// Levels and entries of a list. All threads; ends with a barrier.
template <class S>
__device__ void select_rows(const NestedGemvWeights& weights, const NestedGemvCall& call, const Span& span,
                            const List<S>& list) {
  constexpr int kMine = (S::kBlocks + kWarps - 1) / kWarps;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, tokens = static_cast<int>(call.x.rows);
  const NestedDigitPlanes& planes = weights.planes;
  int top[kMine];
  if constexpr (!S::kByInput)
    for (int i = threadIdx.x; i < S::kAcross * S::kTokens; i += kThreads) list.largest[i] = 0;
#pragma unroll
  for (int i = 0; i < kMine; ++i) {
    const int block = warp + i * kWarps, index = block * 32 + lane, channel = span.begin + index;
    top[i] = 0;
    if (block >= S::kBlocks) break;
    const bool inside = channel < span.end;
#pragma unroll
    for (int t = 0; t < S::kTokens; ++t) {
      if (t >= tokens) break;
      int level = 0;
      if (inside)
        level = call.rule.count == 0 ? call.level
                                     : level_of(call.rule, input_at(call.x, t, channel), channel, weights.in);
      list.levels[t * S::kChannels + index] = static_cast<uint8_t>(level);
      top[i] = max(top[i], level);
    }
    for (int p = 0; p < planes.count; ++p) {
      const uint32_t reading = __ballot_sync(0xffffffffu, top[i] >= planes.end[p]);
      if (lane == 0) list.counts[p * S::kBlocks + block] = static_cast<uint8_t>(__popc(reading));
    }
  }
  __syncthreads();
  // Every warp sums all counts, four a lane.
  constexpr uint32_t kOnes = 0x01010101u;
  const uint32_t counts =
      4 * lane < planes.count * S::kBlocks ? reinterpret_cast<const uint32_t*>(list.counts)[lane] : 0u;
  uint32_t up_to = __dp4a(counts, kOnes, 0u);
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint32_t below = __shfl_up_sync(0xffffffffu, up_to, step);
    if (lane >= step) up_to += below;
  }
  const uint32_t before = up_to - __dp4a(counts, kOnes, 0u);
  const int all = __shfl_sync(0xffffffffu, static_cast<int>(up_to), 31);
  const int pairs = planes.pairs == planes.count
                        ? all
                        : __shfl_sync(0xffffffffu, static_cast<int>(before), planes.pairs * S::kBlocks / 4);
  // A list without rows has a stage of none, so that all lists are alike.
  const int stages2 = max((pairs + S::kRows2 - 1) / S::kRows2, all == 0 ? 1 : 0);
  const int stages1 = (all - pairs + S::kRows1 - 1) / S::kRows1;
  const int begin1 = stages2 * S::kRows2, end1 = begin1 + stages1 * S::kRows1;
#pragma unroll
  for (int i = 0; i < kMine; ++i) {
    const int block = warp + i * kWarps, index = block * 32 + lane;
    if (block >= S::kBlocks) break;
    const int part = S::kByInput ? (span.begin + index) / weights.part - span.begin / weights.part : 0;
    for (int p = 0; p < planes.count; ++p) {
      const bool read = top[i] >= planes.end[p];
      const uint32_t reading = __ballot_sync(0xffffffffu, read);
      const int place = p * S::kBlocks + block;
      const uint32_t others = __shfl_sync(0xffffffffu, counts, place / 4) & ((1u << 8 * (place % 4)) - 1);
      int at = static_cast<int>(__shfl_sync(0xffffffffu, before, place / 4) + __dp4a(others, kOnes, 0u)) +
               __popc(reading & ((1u << lane) - 1));
      if (p >= planes.pairs) at += begin1 - pairs;
      if (read) list.entries[at] = static_cast<uint16_t>(index | part << 9 | p << 11);
    }
  }
  for (int i = pairs + threadIdx.x; i < begin1; i += kThreads) list.entries[i] = kNoRow;
  for (int i = begin1 + all - pairs + threadIdx.x; i < end1; i += kThreads) list.entries[i] = kNoRow;
  if (threadIdx.x == 0) {
    list.stages[0] = stages2;
    list.stages[1] = stages1;
  }
  __syncthreads();
}

// x of a channel that a token reads, else 0; level: 0 for those.
template <class S>
__device__ inline float input_read(const NestedGemvCall& call, const Span& span, const List<S>& list,
                                   int token, int index, int& level) {
  level =
      token < call.x.rows && span.begin + index < span.end ? list.levels[token * S::kChannels + index] : 0;
  return level > 0 ? input_at(call.x, token, span.begin + index) : 0.0f;
}

// Blocks of 32 channels [first, last) of a list that lie in a part of the inputs.
struct Blocks {
  int first, last;
};
__device__ inline Blocks blocks_of_part(const NestedGemvWeights& weights, const Span& span, int part) {
  const int begin = (span.begin / weights.part + part) * weights.part - span.begin;
  return {max(0, begin / 32), min(begin + weights.part, span.end - span.begin + 31) / 32};
}

// Integers and sums where scales lie along the inputs: what a scale does comes after the product. All
// threads, after select_rows; ends with a barrier.
template <class S>
__device__ void prepare_inputs(const NestedGemvWeights& weights, const NestedGemvCall& call, const Span& span,
                               const List<S>& list) {
  constexpr int kMine = (S::kBlocks + kWarps - 1) / kWarps;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float x[kMine][S::kTokens];
#pragma unroll
  for (int i = 0; i < kMine; ++i) {
    const int block = warp + i * kWarps;
    if (block >= S::kBlocks) break;
#pragma unroll
    for (int t = 0; t < S::kTokens; ++t) {
      int level;
      x[i][t] = input_read(call, span, list, t, block * 32 + lane, level);
      const float middle = level > 0 ? x[i][t] * power_of_two(7 - level) : 0.0f;
      const Sums sums{warp_sum(x[i][t]), warp_sum(middle),
                      __reduce_max_sync(0xffffffffu, __float_as_uint(fabsf(x[i][t])))};
      if (lane == 0) list.sums[block * S::kTokens + t] = sums;
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kMine; ++i) {
    const int block = warp + i * kWarps;
    if (block >= S::kBlocks) break;
    const int part = (span.begin + block * 32) / weights.part - span.begin / weights.part;
    const Blocks blocks = blocks_of_part(weights, span, part);
#pragma unroll
    for (int t = 0; t < S::kTokens; ++t) {
      uint32_t largest = 0;
      for (int b = blocks.first; b < blocks.last; ++b)
        largest = max(largest, list.sums[b * S::kTokens + t].largest);
      list.integers[t * S::kChannels + block * 32 + lane] =
          static_cast<int16_t>(__float2int_rn(x[i][t] * to_integers(largest)));
    }
  }
  __syncthreads();
}

// The same where scales lie along the outputs: x times the scale of a channel and a slice of outputs.
template <class S>
__device__ void prepare_scaled_inputs(const NestedGemvWeights& weights, const NestedGemvCall& call,
                                      const Span& span, const List<S>& list) {
  constexpr int kMine = (S::kBlocks + kWarps - 1) / kWarps;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float x[kMine][S::kTokens];
  uint32_t grids[kMine][S::kAcross];
#pragma unroll
  for (int i = 0; i < kMine; ++i) {
    const int block = warp + i * kWarps, index = block * 32 + lane;
    if (block >= S::kBlocks) break;
    int level[S::kTokens], top = 0;
#pragma unroll
    for (int t = 0; t < S::kTokens; ++t) {
      x[i][t] = input_read(call, span, list, t, index, level[t]);
      top = max(top, level[t]);
    }
    const uint32_t* row =
        weights.grids + (int64_t{span.tile} * weights.in + span.begin + index) * weights.groups;
#pragma unroll
    for (int h = 0; h < S::kAcross; ++h) grids[i][h] = top > 0 ? row[h * kSlice / weights.part] : 0u;
#pragma unroll
    for (int h = 0; h < S::kAcross; ++h) {
      const float scale = half_low(grids[i][h]), minimum = half_high(grids[i][h]);
#pragma unroll
      for (int t = 0; t < S::kTokens; ++t) {
        const float middle = level[t] > 0 ? x[i][t] * (minimum + scale * power_of_two(7 - level[t])) : 0.0f;
        const float sum = warp_sum(middle);
        const uint32_t largest = __reduce_max_sync(0xffffffffu, __float_as_uint(fabsf(x[i][t] * scale)));
        if (lane == 0) {
          list.sums[(h * S::kBlocks + block) * S::kTokens + t].middles = sum;
          atomicMax(list.largest + h * S::kTokens + t, largest);
        }
      }
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kMine; ++i) {
    const int block = warp + i * kWarps, index = block * 32 + lane;
    if (block >= S::kBlocks) break;
#pragma unroll
    for (int h = 0; h < S::kAcross; ++h)
#pragma unroll
      for (int t = 0; t < S::kTokens; ++t)
        list.integers[(h * S::kTokens + t) * S::kChannels + index] = static_cast<int16_t>(
            __float2int_rn(x[i][t] * half_low(grids[i][h]) * to_integers(list.largest[h * S::kTokens + t])));
  }
  __syncthreads();
}

}  // namespace grinqh::cuda::nested
