// The work of a warp: rounds of its channels, tile after tile.
#pragma once

#include "kernels/nested/gemv_channels.cuh"
#include "kernels/nested/gemv_integers.cuh"
#include "kernels/nested/gemv_rows.cuh"

namespace grinqh::cuda::nested {

// Channels that a warp multiplies together, and what it has made of their inputs.
struct Round {
  Span span;
  int slots = 0, last_end = 0;
  uint32_t list = 0, x = 0;  // in shared memory
  Factors factors;
};

template <class S>
struct Warp {
  static constexpr uint32_t kRing = S::kDepth * kSlotBytes, kColumns = S::kTokens * 2 * kRound;

  const Problem& p;
  const Plan& plan;
  uint8_t* memory;
  const float* factors;  // of the tokens, where inputs are normalized
  int lane;
  LaneCopies copies;
  uint32_t ring, pairs_at, singles_at;  // the lane's rows in the first slot

  __device__ Warp(const Problem& problem, const Plan& the_plan, uint8_t* shared, int the_lane)
      : p(problem),
        plan(the_plan),
        memory(shared + threadIdx.x / 32 * the_plan.warp_bytes),
        factors(reinterpret_cast<const float*>(shared + the_plan.factors)),
        lane(the_lane),
        copies(the_lane, problem.w.order.across),
        ring(shared_address(memory + the_plan.ring)),
        pairs_at(ring + the_lane * 32 + the_lane / 4 % 2 * 16),
        singles_at(ring + the_lane * 16) {}

  __device__ float* y() const { return reinterpret_cast<float*>(memory + plan.y); }

  // Levels, masks and slots of a round, in the first or the second of two places; its first slots are
  // fetched as soon as they are known.
  __device__ void prepare(int place, Round& round, Flow& flow) const {
    const Span& span = round.span;
    const int layer = layer_of(p.w, span.tile), channel = span.begin + lane * 8;
    const NestedReading& reading = p.readings[layer];
    const bool inside = channel < span.end;
    uint8_t* masks = memory + plan.masks + lane;
    const int plane_stride = kRound / 8, token_stride = p.w.order.planes * plane_stride;
    ChannelGrids grids{};
    float thresholds[8], x[8], half[8] = {};
    const auto first_thresholds = [&] {
      if (reading.rule.count > 1) load_thresholds(reading.rule, 0, channel, p.w.order.in, thresholds);
    };
    if (inside) {
      if constexpr (!S::kByInput) grids.load(p, span, channel);
      first_thresholds();
    }
#pragma unroll 1
    for (int t = 0; t < S::kTokens; ++t) {
      if (t < p.tokens && inside) {
        if (t > 0) first_thresholds();
        inputs_at(p, t, channel, factors, x);
        grade_channels(p, layer, x, channel, thresholds, half, [&](int plane, uint32_t bits) {
          uint8_t* mask = masks + plane * plane_stride;
          if constexpr (S::kTokens > 1) {
            mask[(t + 1) * token_stride] = static_cast<uint8_t>(bits);
            bits |= t == 0 ? 0u : *mask;
          }
          *mask = static_cast<uint8_t>(bits);
        });
      } else if (S::kTokens > 1) {
        for (int plane = 0; plane < p.w.order.planes; ++plane)
          masks[(t + 1) * token_stride + plane * plane_stride] = 0;
      }
    }
    __syncwarp();
    uint8_t* list = memory + plan.lists + place * plan.list_bytes;
    round.list = shared_address(list);
    round.x = shared_address(memory + plan.x) + place * kColumns;
    round.slots = list_slots<S>(p, span, reinterpret_cast<const uint32_t*>(memory + plan.masks),
                                reinterpret_cast<uint32_t*>(list), round.last_end);
    flow.tile = p.w.digits + span.tile * p.w.order.tile_bytes();
    flow.entry = round.list;
    flow.left = round.slots;
#pragma unroll 1
    while (flow.left > 0 && flow.in_flight < S::kDepth) fetch_next(flow);
#pragma unroll 1
    for (int t = 0; t < S::kTokens; ++t) {
      if constexpr (S::kTokens > 1) {
        if (t < p.tokens && inside) {
          inputs_at(p, t, channel, factors, x);
          first_thresholds();
          grade_channels(p, layer, x, channel, thresholds, half, [](int, uint32_t) {});
        } else {
#pragma unroll
          for (int k = 0; k < 8; ++k) half[k] = 0;
        }
      }
      quantize<S>(p, span, t, x, half, grids, memory + plan.x + place * kColumns, round.factors);
    }
    __syncwarp();
  }

  __device__ void fetch_next(Flow& flow) const {
    fetch(load_pair(flow.entry), copies, flow.tile, ring + flow.place);
    commit_copies();
    flow.entry += SlotList<S>::kWords * 4;
    --flow.left;
    ++flow.in_flight;
    flow.place = (flow.place + kSlotBytes) % kRing;
  }

  // The bytes of this lane's column for a slot of a round; zeros in columns that are not in use.
  __device__ uint2 column(uint32_t entry, uint32_t entry_at, const Round& round) const {
    const int g = lane / 4, t = lane % 4, block = static_cast<int>(entry >> 24 & 7);
    const uint32_t from = round.x + block * NestedOrder::kBlock + t * 8;
    uint2 b = make_uint2(0, 0);
    if constexpr (S::kTokens == 1) {
      int used = 0;
      if (S::kByInput) used = (round.span.begin + block * 32) / p.w.group - round.span.begin / p.w.group;
      if (g / 2 == used) b = load_pair(from + g % 2 * kRound);
    } else {
      b = load_pair(from + g * kRound);
      uint32_t mask;
      asm volatile("ld.shared.u32 %0, [%1];" : "=r"(mask) : "r"(entry_at + (2 + g / 2) * 4) : "memory");
      // Bytes of ones where bits 2 t + 8 o, 2 t + 1 + 8 o of the token's mask are set: by their signs.
      mask >>= 2 * t;
      const uint32_t even = mask << 7, odd = mask << 6;
      uint32_t first, second;
      asm("prmt.b32 %0, %1, %2, 0xd9c8;" : "=r"(first) : "r"(even), "r"(odd));
      asm("prmt.b32 %0, %1, %2, 0xfbea;" : "=r"(second) : "r"(even), "r"(odd));
      b = make_uint2(b.x & first, b.y & second);
    }
    return b;
  }

  // The slot at a place of the ring, whose copies are done for all lanes.
  __device__ void multiply(uint32_t entry, const uint2& b, uint32_t place, Sums& sums) const {
    if (const uint32_t raise = entry >> 27 & 15; raise != 0) sums.raise(static_cast<int>(raise));
    if (static_cast<int>(entry) < 0)
      multiply_singles(singles_at + place, b, sums);
    else
      multiply_pairs(pairs_at + place, b, sums);
  }
};

}  // namespace grinqh::cuda::nested
