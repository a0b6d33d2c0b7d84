// From sums of integers to outputs: of a unit, of a block's warps, of the blocks of a cluster. All in an
// order that does not depend on who comes first.
#pragma once

#include "cuda/bulk_copy.cuh"
#include "cuda/cluster.cuh"
#include "kernels/nested/gemv_products.cuh"

namespace grinqh::cuda::nested {

// A lane's outputs of a tile, (d, e) being number 2 d + e: 64 b + 16 d + 8 h + g with g = lane / 4, h = lane
// / 2 % 2, b = 2 (lane % 2) + e.
template <class S>
struct Outputs {
  float of[S::kTokens][kOwned];

  __device__ void clear() {
#pragma unroll
    for (int t = 0; t < S::kTokens; ++t)
#pragma unroll
      for (int i = 0; i < kOwned; ++i) of[t][i] = 0;
  }
};

// A sum of an output's half 0 and one of its half 1, of high bytes of inputs in two lanes of four and of low
// bytes in the others: joined for the half that this lane keeps.
__device__ inline float joined(int first, int second, int lane) {
  const bool upper = lane & 2;  // has low bytes, keeps half 1
  const int other = __shfl_xor_sync(0xffffffffu, upper ? first : second, 2);
  const int high = upper ? other : first, low = upper ? second : other;
  return fmaf(static_cast<float>(high), 256.0f, static_cast<float>(low));
}

// grids: of the unit's group, [lane][8]; along the inputs only.
template <class S>
__device__ inline void add_sum(float sum, int number, int lane, const uint32_t* grids, float (&y)[kOwned]) {
  y[number] = S::kByInput ? fmaf(scale_of(grids[lane * kOwned + number]), sum, y[number]) : y[number] + sum;
}

// Adds what was multiplied digit by digit. last_end: of the plane multiplied last.
template <class S>
__device__ inline void add_digit_sums(const Sums<S>& sums, int token, int last_end, int lane,
                                      const Factors<S>& factors, const uint32_t* grids, float (&y)[kOwned]) {
  const float unit = factors.unit * __uint_as_float((127 + 8 - last_end) << 23);
#pragma unroll
  for (int d = 0; d < 4; ++d)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const auto digit = [&](int i) {
        return sums.of[token][d][i] - (d == 0 ? 0 : sums.of[token][d == 0 ? 0 : d - 1][i]);
      };
      add_sum<S>(joined(digit(e), digit(2 + e), lane) * (unit * __uint_as_float((127 - 2 * d) << 23)),
                 2 * d + e, lane, grids, y);
    }
}

// Adds what does not depend on the digits.
template <class S>
__device__ inline void add_middles(const Factors<S>& factors, int lane, const uint32_t* grids,
                                   float (&y)[kOwned]) {
#pragma unroll
  for (int i = 0; i < kOwned; ++i) {
    if constexpr (S::kByInput) {
      const uint32_t grid = grids[lane * kOwned + i];
      y[i] += fmaf(scale_of(grid), factors.middles[0], minimum_of(grid) * factors.inputs);
    } else {
      // Of byte 2 (lane % 2) + i % 2.
      constexpr int kColumns = S::kColumns;
      const int first = i % 2 * kColumns / 4, second = (2 + i % 2) * kColumns / 4;
      y[i] += lane & 1 ? factors.middles[second] : factors.middles[first];
    }
  }
}

#if __CUDA_ARCH__ >= 900
// A barrier for each buffer of the inbox counts what the cluster's blocks send to this one.
__device__ inline uint32_t inbox_barrier(const Problem& p, uint8_t* shared, int buffer) {
  return shared_address(shared + p.plan.barriers) + buffer * 8;
}
__device__ inline int inbox_bytes(const Problem& p) {
  return p.cluster * p.tokens * min(p.owned, NestedOrder::kTile - rank_in_cluster() * p.owned) * 4;
}

// By one thread, before it arrives at the cluster's barrier; nobody sends before all have.
__device__ inline void prepare_inbox(const Problem& p, uint8_t* shared) {
  for (int buffer = 0; buffer < p.plan.buffers; ++buffer) init_barrier(inbox_barrier(p, shared, buffer), 1);
  fence_barriers();
  for (int buffer = 0; buffer < p.plan.buffers; ++buffer)
    expect_bytes(inbox_barrier(p, shared, buffer), inbox_bytes(p));
}

// The block's warps have added up their channels of a tile. Every block of a cluster gathers a share of the
// tile's outputs. number: of the tile among the cluster's.
template <class S>
__device__ void finish_tile(const Problem& p, uint8_t* shared, int tile, int layer, int number,
                            const Outputs<S>& y) {
  constexpr int kTile = NestedOrder::kTile;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int rank = rank_in_cluster(), owned = p.owned, buffer = number & (p.plan.buffers - 1);
  const int first = p.w.first_output[layer] + (tile - p.w.first_tile[layer]) * kTile;
  const int end = p.w.first_output[layer + 1];
  // Of a warp: [tokens][number of a lane's output][lane].
  uint8_t* sums = shared + p.plan.sums + buffer * p.plan.sums_buffer;
  auto* inbox = reinterpret_cast<float*>(shared + p.plan.inbox) + buffer * p.cluster * S::kTokens * owned;
  const uint32_t barrier = inbox_barrier(p, shared, buffer);
  auto* mine = reinterpret_cast<float*>(sums + warp * p.plan.sums_warp);
#pragma unroll
  for (int token = 0; token < S::kTokens; ++token)
#pragma unroll
    for (int i = 0; i < kOwned; ++i) mine[token * kTile + i * 32 + lane] = y.of[token][i];
  __syncthreads();
  if (p.cluster > 1 && number == 0) wait_apart();
  if (const int output = threadIdx.x; output < kTile) {
    const int place =
        (output / 16 % 4 * 2 + output / 64 % 2) * 32 + output % 8 * 4 + output / 8 % 2 * 2 + output / 128;
    const int owner = output * p.owned_inverse >> 16;
#pragma unroll 1
    for (int token = 0; token < p.tokens; ++token) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < S::kWarps; ++w)
        sum += reinterpret_cast<const float*>(sums + w * p.plan.sums_warp)[token * kTile + place];
      if (p.cluster == 1) {
        if (first + output < end) put_output(p.output, token, first + output, sum);
      } else {
        send_to_block(inbox + (rank * S::kTokens + token) * owned + output - owner * owned, barrier, owner,
                      sum);
      }
    }
  }
  if (p.cluster == 1) return;
  wait_barrier(barrier, number >> 1 & 1);
  const int own = rank * owned + threadIdx.x;
  if (static_cast<int>(threadIdx.x) < owned && own < kTile && first + own < end)
#pragma unroll 1
    for (int token = 0; token < p.tokens; ++token) {
      float sum = 0;
      for (int from = 0; from < p.cluster; ++from)
        sum += inbox[(from * S::kTokens + token) * owned + threadIdx.x];
      put_output(p.output, token, first + own, sum);
    }
  if (p.plan.buffers == 1) return;
  // What the next tile but one sends must find the barrier expecting it, and this tile's sums read: all
  // blocks pass the next tile's barrier after that.
  __syncthreads();
  if (threadIdx.x == 0) expect_bytes(barrier, inbox_bytes(p));
}
#endif

}  // namespace grinqh::cuda::nested
