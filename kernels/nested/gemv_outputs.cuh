// From integer sums to outputs: scales and minima, and the sum over the blocks that share a tile.
#pragma once

#include "kernels/nested/gemv_channels.cuh"
#include "kernels/nested/gemv_stages.cuh"

namespace grinqh::cuda::nested {

// Of a lane: outputs 16 (lane / 4) .. + 15 of its slice, for the columns 2 (lane % 4), 2 (lane % 4) + 1.
template <class S>
struct Outputs {
  float of[S::kProducts][16];

  __device__ void clear() {
#pragma unroll
    for (int n = 0; n < S::kProducts; ++n)
#pragma unroll
      for (int i = 0; i < 16; ++i) of[n][i] = 0;
  }
};

// Grids of a lane's outputs, for its part of the inputs.
struct LaneGrids {
  uint4 of[4];
};
template <class S>
__device__ inline LaneGrids load_grids(const NestedGemvWeights& weights, const Span& span) {
  const int lane = threadIdx.x % 32, across = threadIdx.x / 32 % S::kAcross;
  const int part = min((span.begin / weights.part + lane % 4 / S::kTogether) * weights.part, weights.in - 1);
  const uint32_t* from = weights.grids +
                         (int64_t{span.tile} * weights.groups + part / weights.group) * S::kTile +
                         across * kSlice + lane / 4 * 16;
  LaneGrids grids;
#pragma unroll
  for (int i = 0; i < 4; ++i) grids.of[i] = __ldg(reinterpret_cast<const uint4*>(from) + i);
  return grids;
}

// 256 high + low in units of the integers, which digits d of a byte count 4^d fold.
__device__ inline float combined(const int32_t (&c)[4], int half) {
  return fmaf(static_cast<float>(c[2 * half]), 256.0f, static_cast<float>(c[2 * half + 1]));
}

// Adds a list's sums to the outputs, and clears them.
template <class S>
__device__ inline void finish_list(const NestedGemvWeights& weights, const Span& span, const List<S>& list,
                                   const LaneGrids& grids, Sum<S>& sum, Outputs<S>& outputs) {
  const int pair = threadIdx.x % 4, warp = threadIdx.x / 32, across = warp % S::kAcross;
  const bool first = warp / S::kAcross == 0;  // of the warps that share outputs
  const float unit = power_of_two(8 - weights.planes.first_end) / kMaxInteger;
#pragma unroll
  for (int n = 0; n < S::kProducts; ++n) {
    const int token = pair % S::kTogether + n * S::kTogether;
    float inputs = 0, middles = 0;
    uint32_t largest = 0;
    if constexpr (S::kByInput) {
      const Blocks blocks = blocks_of_part(weights, span, pair / S::kTogether);
      for (int b = blocks.first; b < blocks.last; ++b) {
        const Sums& sums = list.sums[b * S::kTokens + token];
        inputs += sums.inputs;
        middles += sums.middles;
        largest = max(largest, sums.largest);
      }
    } else if (pair < S::kTogether) {
      for (int b = 0; b < S::kBlocks; ++b)
        middles += list.sums[(across * S::kBlocks + b) * S::kTokens + token].middles;
      largest = list.largest[across * S::kTokens + token];
    }
    if (!first) inputs = middles = 0;
    const float scale = __uint_as_float(largest) * unit;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      // Digit i % 4 of byte i / 4.
      const float value = fmaf(combined(sum.of[n][i / 4 * 2 + i % 4 / 2], i % 2),
                               scale * power_of_two(-2 * (i % 4)), middles);
      float& output = outputs.of[n][i];
      if constexpr (S::kByInput) {
        const uint4& four = grids.of[i / 4];
        const uint32_t grid = i % 4 == 0 ? four.x : i % 4 == 1 ? four.y : i % 4 == 2 ? four.z : four.w;
        output = fmaf(half_high(grid), inputs, fmaf(half_low(grid), value, output));
      } else {
        output += value;
      }
    }
  }
  sum.clear();
}

// Sums over the lanes whose columns belong to one token, and writes them to the block's place. partial:
// [tokens][kTile].
template <class S>
__device__ inline void write_partial(Outputs<S>& outputs, int tokens, float* partial) {
  const int lane = threadIdx.x % 32, across = threadIdx.x / 32 % S::kAcross, pair = lane % 4;
  float* to = partial + across * kSlice + lane / 4 * 16;
  const auto store = [](float* p, const float* v) {
    *reinterpret_cast<float4*>(p) = make_float4(v[0], v[1], v[2], v[3]);
  };
  if constexpr (S::kTogether == 4) {
#pragma unroll
    for (int n = 0; n < S::kProducts; ++n)
      if (pair + 4 * n < tokens)
#pragma unroll
        for (int i = 0; i < 16; i += 4) store(to + (pair + 4 * n) * S::kTile + i, outputs.of[n] + i);
  } else {
    // Every exchange halves what a lane is left with.
    const float(&v)[16] = outputs.of[0];
    const bool upper = pair / S::kTogether % 2 == 1;
    float half[8];
#pragma unroll
    for (int i = 0; i < 8; ++i)
      half[i] =
          (upper ? v[i + 8] : v[i]) + __shfl_xor_sync(0xffffffffu, upper ? v[i] : v[i + 8], S::kTogether);
    if constexpr (S::kTogether == 2) {
      const int token = pair % 2;
      if (token < tokens) {
        store(to + token * S::kTile + upper * 8, half);
        store(to + token * S::kTile + upper * 8 + 4, half + 4);
      }
    } else {
      const bool last = pair / 2 == 1;
      float quarter[4];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        quarter[i] =
            (last ? half[i + 4] : half[i]) + __shfl_xor_sync(0xffffffffu, last ? half[i] : half[i + 4], 2);
      store(to + upper * 8 + last * 4, quarter);
    }
  }
}

__device__ inline void store_output(const View& y, int token, int64_t output, const float (&v)[4]) {
  const int count = static_cast<int>(min(int64_t{4}, y.cols - output));
  const int64_t at = token * y.stride + output;
  for (int i = 0; i < count; ++i)
    if (y.type == Type::f32)
      static_cast<float*>(y.data)[at + i] = v[i];
    else
      static_cast<__nv_bfloat16*>(y.data)[at + i] = __float2bfloat16(v[i]);
}

// The block has a tile's share in `partials`. Whichever block comes last adds the shares, in their order:
// block b's share of tile t is number b + t, as blocks and tiles ascend together.
template <class S>
__device__ inline void join_tile(const NestedGemvWeights& weights, const View& y, int tile,
                                 const NestedGemvWorkspace& workspace) {
  __shared__ int arrived;
  const int64_t units = (weights.in + 31) / 32, all = units * weights.tiles, blocks = gridDim.x;
  const auto block_of = [&](int64_t unit) {
    return static_cast<int>(((unit + 1) * blocks + all - 1) / all) - 1;
  };
  const int first = block_of(tile * units), last = block_of((tile + 1) * units - 1);
  const int tokens = static_cast<int>(y.rows);
  __threadfence();
  __syncthreads();
  if (first < last) {
    if (threadIdx.x == 0) arrived = atomicAdd(workspace.arrivals + tile, 1);
    __syncthreads();
    if (arrived < last - first) return;
    __threadfence();
    if (threadIdx.x == 0) workspace.arrivals[tile] = 0;
  }
  const int64_t share = int64_t{tokens} * S::kTile;
  const float* from = workspace.partials + (first + tile) * S::kDeep * share;
  const int shares = (last - first + 1) * S::kDeep;
  for (int i = 4 * threadIdx.x; i < share; i += 4 * kThreads) {
    float sum[4] = {};
#pragma unroll 8
    for (int k = 0; k < shares; ++k) {
      const float4 v = __ldcg(reinterpret_cast<const float4*>(from + k * share + i));
      sum[0] += v.x, sum[1] += v.y, sum[2] += v.z, sum[3] += v.w;
    }
    const int64_t output = int64_t{tile} * S::kTile + i % S::kTile;
    if (output < y.cols) store_output(y, i / S::kTile, output, sum);
  }
}

}  // namespace grinqh::cuda::nested
