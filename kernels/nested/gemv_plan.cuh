// What a launch of the decoding kernel is told, and what of shared memory belongs to whom.
//
// A warp has all 256 outputs of its channels. It waits for nobody before its sums are complete: it grades its
// channels, lists them by how many planes of them are read, copies their rows into a ring of its own and
// multiplies them there, unit by unit: what is summed as integers before it is scaled.
//
// Of its first unit it reads the first plane of all channels, whatever their grades, as few read nothing:
// those rows are under way before the inputs are there. Of a later unit, if most channels have that plane.
#pragma once

#include "cuda/gemv_launch.cuh"
#include "kernels/nested/cuda_gemv.h"

namespace grinqh::cuda::nested {

constexpr int kOwned = NestedOrder::kTile / 32;  // outputs of a lane
constexpr int kCopyBytes =
    512;  // of one instruction of a warp, 16 a lane: rows of 8 channels, or of 16 with 1-bit digits

// kTokens: 1, or up to 4. kColumns: of NestedStream; 0: groups along the inputs. kSingles: some digits have
// one bit. kTables: some levels have tables; for a single token. kLane: channels of a lane, 4 or 8. kMany:
// runs have more than one unit. kGrades: some layers are graded.
template <int kTokens_, int kColumns_, bool kSingles_, bool kTables_, int kLane_, bool kMany_, bool kGrades_>
struct Shape {
  static constexpr int kTokens = kTokens_, kLane = kLane_;
  static constexpr bool kByInput = kColumns_ == 0, kSingles = kSingles_, kTables = kTables_, kMany = kMany_,
                        kGrades = kGrades_;
  static constexpr int kColumns = kByInput ? 1 : kColumns_;
  static constexpr int kWarps = kTokens == 1 ? 16 : 8, kThreads = 32 * kWarps;
  // A unit's sums stay below 2^31: bytes of the inputs up to 128 and of the codes up to 255, planes worth 64
  // + 16 + 4 + 1, 256 channels.
  static constexpr int kMaxUnit = 32 * kLane;
  // Channels of a unit at most: places in a list, and their number, are bytes.
  static constexpr int kMostUnit = kMaxUnit < 240 ? kMaxUnit : 240;
  // Rows that are asked for and multiplied together, and how many of them a ring has. Where runs have one
  // unit, few enough for the next launch to have its blocks beside this one's, so that its first rows come
  // while this one's last are multiplied. A table's codes are made for 16 channels at a time.
  static constexpr int kSlotBytes = kMany && !kTables ? 2048 : 1024;
  static constexpr int kDepth = kTables ? 6 : kMany ? 3 : (kLane == 8 && kGrades) || kColumns == 4 ? 4 : 5;
  static constexpr int kCopies = kSlotBytes / kCopyBytes;
  static constexpr int kPairs = kSlotBytes / 64, kSingleBits = kSlotBytes / 32;  // channels of a slot
  // Planes of one bit that follow each other are read as one of two bits; not where registers are too few for
  // it.
  static constexpr bool kJoins = kSingles && !kTables && (kMany || kLane == 4 || !kGrades);
  // Of rows behind the ring's, what comes to the second cache before the inputs are there; runs of one unit.
  static constexpr int kAheadBytes = 6144;
  // Of an unlisted plane that was not wholly asked for before the inputs were there, rows that no channel
  // reads are left out. (With four channels a lane hardly any rows are left then.)
  static constexpr bool kSkips = kGrades && !kMany && kLane == 8;
  static constexpr int kTurns = kMany ? 2 : 1;  // units that something exists for: this one, the next
  // Places of a unit's list: beside those of its channels, tables begin each number of planes with a step of
  // a product.
  static constexpr int kPlaces = kMaxUnit + (kTables ? NestedOrder::kMaxPlanes * NestedOrder::kStep : 0);
};

// What a warp has of shared memory: offsets in bytes.
template <class S>
struct WarpMemory {
  static constexpr int kGridBytes =
      S::kByInput ? NestedOrder::kTile * 4 : (S::kGrades ? S::kMaxUnit : S::kMostUnit) * S::kColumns * 4;
  static constexpr int kIntegerBytes = S::kPlaces * S::kColumns * 2;   // of a token
  static constexpr int kListBytes = S::kGrades ? S::kPlaces + 32 : 0;  // read beyond its end
  static constexpr int kCountBytes = 16;

  // Scales and minima; integers in the order of the channels, in that of the list. Where runs have one unit
  // and groups lie along the outputs, scales make room for the integers that are made of them.
  static constexpr bool kInGrids = !S::kByInput && !S::kMany;
  static constexpr int kGrids = S::kDepth * S::kSlotBytes;
  static constexpr int kIntegers = kInGrids ? kGrids : kGrids + (S::kByInput ? S::kTurns : 1) * kGridBytes;
  static constexpr int kListed = kIntegers + (S::kTables ? 0 : S::kTokens * kIntegerBytes);
  static constexpr int kBehindIntegers = S::kGrades ? kListed + S::kTokens * kIntegerBytes : kListed;
  static_assert(!kInGrids || kBehindIntegers <= kGrids + kGridBytes);
  static constexpr int kLists = kInGrids ? kGrids + kGridBytes : kBehindIntegers;
  static constexpr int kCounts = kLists + S::kTurns * kListBytes;
  static constexpr int kSteps = kCounts + S::kTurns * kCountBytes;
  // Of the slots, then of the scales.
  static constexpr int kBarriers = kSteps + (S::kGrades ? 16 * 8 : 0);
  // Of the next unit: its inputs, levels, places in the list; what it is.
  static constexpr int kX = kBarriers + (S::kDepth + 1 + 1) / 2 * 16;
  static constexpr int kLevels = kX + (S::kMany ? S::kTokens * S::kMaxUnit * 4 : 0);
  static constexpr int kPlacesOf = kLevels + (S::kMany ? S::kTokens * S::kMaxUnit : 0);
  static constexpr int kUnits = kPlacesOf + (S::kMany ? S::kMaxUnit : 0);
  // A bit for each channel that reads anything.
  static constexpr int kFlags = kUnits + (S::kMany ? 2 * 32 : 0);
  // Several tokens only.
  static constexpr int kPlanes = kFlags + (S::kSkips ? 32 : 0);
  static constexpr int kEnd = kPlanes + (S::kTokens > 1 ? S::kTokens * S::kMaxUnit : 0);
  static constexpr int kBytes = (kEnd + 127) / 128 * 128;
};

// Of a block, behind its warps'.
template <class S>
struct BlockMemory {
  static constexpr int kSumBytes = S::kTokens * NestedOrder::kTile * 4;
  static constexpr int kFactors = S::kWarps * WarpMemory<S>::kBytes;  // scratch of token_factors()
  static constexpr int kWork = kFactors + 40 * 4;
  static constexpr int kWorkBytes = 80, kSums = kWork + kWorkBytes;
  // Behind the records of its tiles: sums of tiles that a warp has left for the next.
  static constexpr int passed(int tiles) { return kSums + tiles * static_cast<int>(sizeof(NestedSums)); }
  static constexpr int bytes(int tiles) { return passed(tiles) + (S::kMany ? tiles * kSumBytes : 0); }
  // Sums of a warp's last tile lie in its ring, and behind them what is received of a token.
  static_assert(kSumBytes + NestedOrder::kTile * 4 <= S::kDepth * S::kSlotBytes);
  static constexpr int kBlocks = S::kMany ? 1 : 2;
  static_assert(S::kMany || bytes(S::kWarps + 1) <= kHalfShared);
};

// What a launch is told.
struct Problem {
  NestedStream w;
  NestedSchedule schedule;
  NestedReading readings[kMaxNestedLayers];
  // Level | planes << 8 of a channel at the rule's level of this number; without a rule: [0].
  uint16_t steps[kMaxNestedLayers][17];
  GemvInput input;
  GemvOutput output;
  int tokens = 0;
  // Of the order.
  int64_t grids_of_tile = 0;
  // In pieces of 16 bytes: what a lane copies.
  uint32_t tile_pieces = 0, plane_at[NestedOrder::kMaxPlanes]{};
};

}  // namespace grinqh::cuda::nested
