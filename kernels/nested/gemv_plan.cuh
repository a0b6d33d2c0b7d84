// How a launch of the decoding kernel divides its work, and what of shared memory belongs to whom.
//
// The blocks of a cluster and their warps share out the channels of a tile; every warp has all 256 outputs of
// it. A warp waits for nobody before its sums are complete: it grades its own channels, lists them by how
// many planes of them are read, copies their rows into a ring of its own and multiplies them there. The
// channels of a warp are the same for all its tiles, so the list is made once; a cluster's tiles all belong
// to one layer.
#pragma once

#include "kernels/nested/cuda_gemv.h"

namespace grinqh::cuda::nested {

constexpr int kOwned = NestedOrder::kTile / 32;  // outputs of a lane
constexpr int kSlotBytes = 1024;  // rows of 16 channels of 2-bit digits, or of 32 of 1-bit digits

// kTokens: 1, or up to 4. kColumns: of NestedStream; 0: groups along the inputs. kSingles: some digits have
// one bit. kTables: some levels have tables; for a single token. kLane: channels of a lane.
template <int kTokens_, int kColumns_, bool kSingles_, bool kTables_, int kLane_>
struct Shape {
  static constexpr bool kTables = kTables_;
  // Places of a list beside those of its channels: each number of planes begins a step of a product.
  static constexpr int kSpare = kTables ? NestedOrder::kMaxPlanes * NestedOrder::kStep : 0;
  static constexpr int kTokens = kTokens_, kLane = kLane_;
  static constexpr bool kByInput = kColumns_ == 0, kSingles = kSingles_;
  static constexpr int kColumns = kByInput ? 1 : kColumns_;
  // A unit is what is summed as integers before it is scaled. Its sums stay below 2^31: bytes of the inputs
  // up to 128 and of the codes up to 255, planes worth 64 + 16 + 4 + 1, 256 channels.
  static constexpr int kMaxUnit = 32 * kLane;
  static constexpr int kWarps = kTokens == 1 ? 16 : 8, kThreads = 32 * kWarps;
  static constexpr int kDepth = kTokens == 1 ? 6 : 4;  // slots of a ring
};

// Offsets into shared memory in bytes: of what a warp has, from its own begin, then of what a block has.
struct Plan {
  int grids, grid_bytes, integers, integers_stride, planes, x, levels, places, list, counts, units,
      warp_bytes;
  int factors, sums, sums_warp, sums_buffer, inbox, barriers, bytes;
  int buffers;  // of grids, sums and inbox: 2 where one unit is prepared beside another
};

// What a launch is told.
struct Problem {
  NestedStream w;
  NestedReading readings[kMaxNestedLayers];
  // Planes that a channel at the rule's level of this number has; without a rule: [0].
  uint8_t planes_at[kMaxNestedLayers][17];
  GemvInput input;
  GemvOutput output;
  int tokens = 0;
  int cluster = 1;                   // blocks
  int owned = 0, owned_inverse = 0;  // outputs that a block gathers; n / owned = n owned_inverse >> 16
  int first_cluster[kMaxNestedLayers + 1]{};  // of a layer
  int unit = 0, units = 0, share = 0;  // channels of a unit, a multiple of 8; units and channels of a warp
  int padded = 0;                      // share as arrays have it
  int places = 0;                      // of a unit's list
  // Channels of a warp whose first planes come to the second cache before the inputs are known.
  int likely = 0;
  // Of the order.
  int64_t tile_bytes = 0, grids_of_tile = 0;
  uint32_t plane_at[NestedOrder::kMaxPlanes]{};
  Plan plan{};
};

// Groups along the inputs: what an integer of a unit stands for, and its sums over x.
struct UnitSums {
  float unit, inputs, middles;
};

template <class S>
Plan plan_of(const Problem& p, int most_tiles) {
  Plan plan{};
  constexpr int kTokens = S::kTokens;
  const auto take = [](int& at, int bytes) {
    const int begin = at;
    at += (bytes + 15) / 16 * 16;
    return begin;
  };
  plan.buffers = most_tiles * p.units > 1 ? 2 : 1;
  int at = S::kDepth * kSlotBytes;
  plan.grid_bytes = S::kByInput ? NestedOrder::kTile * 4 : p.unit * S::kColumns * 4;
  plan.grids = take(at, plan.buffers * plan.grid_bytes);
  // Integers of a unit, or, where they serve all tiles, of all.
  plan.integers = at;
  plan.integers_stride = ((S::kByInput ? p.units : 1) * p.places + 15) / 16 * 16 * S::kColumns * 2;
  take(at, kTokens * plan.integers_stride);
  plan.planes = take(at, kTokens > 1 ? kTokens * p.padded : 0);
  plan.x = take(at, kTokens * p.padded * 4);
  plan.levels = take(at, kTokens * p.padded);
  plan.places = take(at, p.padded * 2);
  plan.list = take(at, p.units * p.places + 32);
  plan.counts = take(at, p.units * NestedOrder::kMaxPlanes * 2);
  plan.units = take(at, S::kByInput ? p.units * kTokens * static_cast<int>(sizeof(UnitSums)) : 0);
  plan.warp_bytes = (at + 127) / 128 * 128;
  at = S::kWarps * plan.warp_bytes;
  plan.factors = take(at, 36 * 4 + kTokens * 4);
  // A warp's sums of a tile: in its ring, if nothing more is fetched into that.
  constexpr int kSums = kTokens * NestedOrder::kTile * 4;
  static_assert(kSums <= S::kDepth * kSlotBytes);
  if (plan.buffers == 1) {
    plan.sums_warp = plan.warp_bytes;
  } else {
    plan.sums_warp = kSums;
    plan.sums_buffer = S::kWarps * kSums;
    plan.sums = take(at, 2 * plan.sums_buffer);
  }
  plan.inbox = take(at, p.cluster == 1 ? 0 : plan.buffers * p.cluster * kTokens * p.owned * 4);
  plan.barriers = take(at, 2 * 8);
  plan.bytes = at;
  return plan;
}

}  // namespace grinqh::cuda::nested
