// How a launch of the decoding kernel divides its work, and what of shared memory belongs to whom.
//
// Warps of a team have neighbouring parts of a tile's outputs and the same channels, so that together they
// read whole lines; teams and the blocks of a cluster share out the channels. A warp waits for nobody before
// its sums are complete: it chooses the rows of its channels, a round of up to 256 at a time, fetches them
// into its own ring and multiplies them, and prepares the next round while the last rows of one are on
// their way.
#pragma once

#include "kernels/nested/cuda_gemv.h"

namespace grinqh::cuda::nested {

constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kSlotBytes = NestedOrder::kBlock * NestedOrder::kPart / 4;  // 32 rows of 2-bit digits
// Channels of a round, eight a lane. Their sums stay below 2^31: bytes of the inputs up to 128 and of the
// codes up to 255, planes worth 64 + 16 + 4 + 1.
constexpr int kRound = 256, kRoundBlocks = kRound / NestedOrder::kBlock;

// kTokens: 1, or up to 4. kDepth: slots in flight, a power of two.
template <int kTokens_, bool kByInput_, int kDepth_>
struct Shape {
  static constexpr int kTokens = kTokens_, kDepth = kDepth_;
  static constexpr bool kByInput = kByInput_;
  // The tensor cores have columns for four tokens, or for four groups along the inputs.
  static constexpr int kGroups = kByInput && kTokens == 1 ? 4 : 1;
  static constexpr int kMasks = kTokens == 1 ? 1 : kTokens + 1;  // the first: of any token
};

struct Problem {
  NestedStream w;
  NestedReading readings[kMaxNestedLayers];
  // Of each layer's reading the step that a plane belongs to, or one of these.
  static constexpr uint8_t kAlways = 254, kNever = 255;
  uint8_t steps[kMaxNestedLayers][NestedOrder::kMaxPlanes];
  GemvInput input;
  GemvOutput output;
  int tokens, cluster, clusters, prefetched;
};

// 32 channels' rows of a plane, as lists have them.
//   word 0  bits 0 .. 23: where the warp's rows begin in the tile, in units of 16 bytes; 24 .. 26: block of
//           the round; 27 .. 30: by how many bits what was summed before is worth more; 31: 1-bit digits
//   word 1  channels that are read (by any token); with several tokens, those of each follow
template <class S>
struct SlotList {
  static constexpr int kWords = S::kTokens == 1 ? 2 : 2 + S::kTokens;
  static constexpr int bytes(int planes) { return planes * kRoundBlocks * kWords * 4; }
};

// Sizes and offsets of a warp's memory, and of what the block has besides.
struct Plan {
  int ring, x, y, masks, lists, list_bytes, warp_bytes, scratch, factors, inbox, bytes;

  template <class S>
  __host__ __device__ static constexpr Plan of(const NestedOrder& order, int cluster) {
    Plan plan{};
    plan.list_bytes = SlotList<S>::bytes(order.planes);
    plan.x = plan.ring + S::kDepth * kSlotBytes;
    plan.y = plan.x + 2 * S::kTokens * 2 * kRound;
    plan.masks = plan.y + S::kTokens * NestedOrder::kPart * 4;
    plan.lists = plan.masks + S::kMasks * order.planes * (kRound / 8);
    plan.warp_bytes = (plan.lists + 2 * plan.list_bytes + 127) / 128 * 128;
    plan.scratch = kWarps * plan.warp_bytes;
    plan.factors = plan.scratch + 36 * 4;
    plan.inbox = plan.factors + 4 * 4;
    plan.bytes = plan.inbox + (cluster == 1 ? 0 : cluster * S::kTokens * owned(order, cluster) * 4);
    return plan;
  }
  // Outputs of a tile that one block of the cluster adds up.
  __host__ __device__ static constexpr int owned(const NestedOrder& order, int cluster) {
    return (order.tile() + cluster - 1) / cluster;
  }
};

// Channels [begin, end) of a tile, for a warp's part of its outputs; multiples of 32 but for the layer's end.
struct Span {
  int tile, part, begin, end;
};

__device__ inline int layer_of(const NestedStream& w, int tile) {
  int layer = 0;
  while (tile >= w.first_tile[layer + 1]) ++layer;
  return layer;
}

}  // namespace grinqh::cuda::nested
