// From sums of integers to outputs: of a warp, of a block's teams, of the blocks of a cluster. All in an
// order that does not depend on who comes first.
#pragma once

#include "cuda/cluster.cuh"
#include "kernels/nested/gemv_integers.cuh"
#include "kernels/nested/gemv_rows.cuh"

namespace grinqh::cuda::nested {

template <class S>
__device__ inline void clear(float* y, int lane) {
  for (int i = lane; i < S::kTokens * NestedOrder::kPart; i += 32) y[i] = 0;
  __syncwarp();
}

// Adds a round's sums to the warp's y. last_end: of the plane that was multiplied last.
template <class S>
__device__ void add_round(const Problem& p, const Span& span, const Sums& sums, int last_end,
                          const Factors& factors, float* y) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const float unit = factors.unit * __uint_as_float((127 + 8 - last_end) << 23);
  const uint32_t* grids = nullptr;
  if constexpr (S::kByInput) {
    const int group = min(span.begin / p.w.group + (S::kTokens == 1 ? t : 0), p.w.groups - 1);
    grids = p.w.grids +
            ((int64_t{span.tile} * p.w.order.across + span.part) * p.w.groups + group) * NestedOrder::kPart +
            g * 16;
  }
  constexpr bool kShared = S::kByInput && S::kTokens == 1;  // four lanes have parts of the same output
  const bool adds = kShared ? t == 0 : t < S::kTokens;
  if (S::kTokens > 1) y += t * NestedOrder::kPart;
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int byte = 0; byte < 2; ++byte) {
      float v[4];
#pragma unroll
      for (int d = 0; d < 4; ++d) {
        const auto& c = sums.of[byte * 4 + d];
        const auto& below = sums.of[byte * 4 + (d == 0 ? 0 : d - 1)];
        const int high = c[half * 2] - (d == 0 ? 0 : below[half * 2]);
        const int low = c[half * 2 + 1] - (d == 0 ? 0 : below[half * 2 + 1]);
        v[d] = fmaf(static_cast<float>(high), 256.0f, static_cast<float>(low)) *
               (unit * __uint_as_float((127 - 2 * d) << 23));
      }
      if constexpr (S::kByInput) {
        const uint4 four = __ldg(reinterpret_cast<const uint4*>(grids + half * 8 + byte * 4));
        const uint32_t of[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int d = 0; d < 4; ++d)
          v[d] = fmaf(scale_of(of[d]), v[d] + factors.middles, minimum_of(of[d]) * factors.inputs);
      } else {
#pragma unroll
        for (int d = 0; d < 4; ++d) v[d] += factors.middles;
      }
      if constexpr (kShared) {
#pragma unroll
        for (int d = 0; d < 4; ++d) {
          v[d] += __shfl_xor_sync(0xffffffffu, v[d], 1);
          v[d] += __shfl_xor_sync(0xffffffffu, v[d], 2);
        }
      }
      if (adds) {
        auto* to = reinterpret_cast<float4*>(y + half * 64 + g * 8 + byte * 4);
        const float4 before = *to;
        *to = make_float4(before.x + v[0], before.y + v[1], before.z + v[2], before.w + v[3]);
      }
    }
  __syncwarp();
}

#if __CUDA_ARCH__ >= 900
// The block's warps have added up their channels of a tile. Every block of a cluster gathers a share of the
// tile's outputs. Before the first store to another block, that block must have begun: the caller has
// arrived.
template <class S>
__device__ void finish_tile(const Problem& p, const Plan& plan, uint8_t* shared, int tile, int layer) {
  const int rank = rank_in_cluster(), owned = Plan::owned(p.w.order, p.cluster);
  const int outputs = p.w.order.tile(), across = p.w.order.across;
  const int first = p.w.first_output[layer] + (tile - p.w.first_tile[layer]) * outputs;
  const int end = p.w.first_output[layer + 1];
  auto* inbox = reinterpret_cast<float*>(shared + plan.inbox);
  __syncthreads();
  if (p.cluster > 1) wait_apart();
  for (int at = threadIdx.x; at < p.tokens * outputs; at += kThreads) {
    const int token = at / outputs, output = at % outputs, part = output / NestedOrder::kPart;
    float sum = 0;
#pragma unroll 4
    for (int warp = part; warp < kWarps; warp += across) {
      sum += reinterpret_cast<const float*>(shared + warp * plan.warp_bytes +
                                            plan.y)[token * NestedOrder::kPart + output % NestedOrder::kPart];
    }
    if (p.cluster == 1) {
      if (first + output < end) put_output(p.output, token, first + output, sum);
    } else {
      const int owner = output / owned;
      put_in_block(inbox + (rank * S::kTokens + token) * owned + output - owner * owned, owner, sum);
    }
  }
  if (p.cluster > 1) {
    arrive_apart();
    wait_apart();
    for (int at = threadIdx.x; at < p.tokens * owned; at += kThreads) {
      const int token = at / owned, output = rank * owned + at % owned;
      if (output >= outputs || first + output >= end) continue;
      float sum = 0;
      for (int from = 0; from < p.cluster; ++from)
        sum += inbox[(from * S::kTokens + token) * owned + at % owned];
      put_output(p.output, token, first + output, sum);
    }
  }
}
#endif

}  // namespace grinqh::cuda::nested
