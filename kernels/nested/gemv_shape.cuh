// How a block of threads divides a product with a layer of layout "nested", and its shared memory.
//
// A block goes through lists of channels. The rows of a list, a plane of a channel each, pass through a ring
// of stages in shared memory; each stage is multiplied on the tensor cores by bytes of the inputs: two a
// token (a 16-bit integer is 256 high + low), in one of eight columns each.
#pragma once

#include "kernels/nested/cuda_gemv.h"

namespace grinqh::cuda::nested {

constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kSlice = 128;    // outputs of a warp
constexpr int kMaxPart = 128;  // channels that share a grid
constexpr uint16_t kNoRow = 0xffff;
constexpr float kMaxInteger = 32639;  // so that the high byte stays below 128
constexpr int kStages = 8;

// kAcross warps share a row, kTogether tokens a product, kProducts of them one unpacking of digits.
template <int kAcross_, int kTogether_, int kProducts_, bool kByInput_>
struct Shape {
  static constexpr int kAcross = kAcross_, kTogether = kTogether_, kProducts = kProducts_;
  static constexpr bool kByInput = kByInput_;
  static constexpr int kDeep = kWarps / kAcross;  // warps that take turns in the rows of a stage
  static constexpr int kTile = kAcross * kSlice;
  static constexpr int kTokens = kTogether * kProducts;
  // Columns that tokens leave over carry the other parts of a list.
  static constexpr int kParts = 4 / kTogether;
  static constexpr int kChannels = kParts * kMaxPart;  // of a list
  static constexpr int kBlocks = kChannels / 32;       // of 32 channels
  static constexpr int kLists = kByInput ? 2 * kTogether : 2;

  // Rows of 2-bit digits and of 1-bit digits, 8 KiB a stage either way. Their distances let the four lanes
  // that read one column of four rows meet different banks.
  static constexpr int kRows2 = 256 / kAcross, kRows1 = 512 / kAcross;
  static constexpr int kStride2 = 32 * kAcross + 32, kStride1 = 16 * kAcross + 16;
  static constexpr int kStageBytes = kRows2 * kStride2;
  static constexpr int kSteps = kRows1 / 32;  // at most, of 32 rows in a stage

  // Bytes of the inputs for a step: along the inputs the same for all warps.
  static constexpr int kColumnBytes = kByInput ? 256 : 64 * kTogether;
  static constexpr int kFactorBytes = kProducts * kColumnBytes * (kByInput ? 1 : kAcross);

  static constexpr int entries(int planes) { return kChannels * planes + kRows2 + kRows1; }
};

// Of a block of 32 channels and a token.
struct Sums {
  float inputs, middles;  // of x, and of x times half a cell; channels read
  uint32_t largest;       // |x| as bits
};

// A list's part of shared memory.
template <class S>
struct List {
  uint16_t* entries;  // rows: channel | part << 9 | plane << 11
  int16_t* integers;  // [kTokens][kChannels], along the outputs [kAcross] of them
  uint8_t* levels;    // [kTokens][kChannels]
  uint8_t* counts;    // [plane][kBlocks]
  int32_t* stages;    // of 2-bit rows, of 1-bit rows
  Sums* sums;         // [kBlocks][kTokens], along the outputs [kAcross] of them: middles alone
  uint32_t* largest;  // along the outputs: [kAcross][kTokens]

  static constexpr int kIntegers = S::kTokens * S::kChannels * (S::kByInput ? 1 : S::kAcross);
  static constexpr int kSums = S::kTokens * S::kBlocks * (S::kByInput ? 1 : S::kAcross);
  static constexpr int kLargest = S::kByInput ? 0 : S::kAcross * S::kTokens;

  static constexpr int bytes(int planes) {
    const int size = S::entries(planes) * 2 + kIntegers * 2 + S::kTokens * S::kChannels + 8 * S::kBlocks +
                     16 + kSums * static_cast<int>(sizeof(Sums)) + kLargest * 4;
    return (size + 15) / 16 * 16;
  }
  __device__ List(uint8_t* memory, int planes) {
    sums = reinterpret_cast<Sums*>(memory);
    largest = reinterpret_cast<uint32_t*>(sums + kSums);
    stages = reinterpret_cast<int32_t*>(largest + kLargest);
    counts = reinterpret_cast<uint8_t*>(stages + 4);
    levels = counts + 8 * S::kBlocks;
    integers = reinterpret_cast<int16_t*>(levels + S::kTokens * S::kChannels);
    entries = reinterpret_cast<uint16_t*>(integers + kIntegers);
  }
};

template <class S>
constexpr int shared_bytes(int planes) {
  return kStages * S::kStageBytes + 2 * S::kSteps * S::kFactorBytes + S::kLists * List<S>::bytes(planes);
}

// Channels [begin, end) of a tile of outputs.
struct Span {
  int tile, begin, end;
};

// A block's share: units of 32 channels, tile by tile. One walk builds the lists, another uses them.
template <class S>
struct Walk {
  int unit, last;

  __device__ Walk(int units) {
    const int64_t block = blockIdx.x, blocks = gridDim.x;
    unit = static_cast<int>(block * units / blocks);
    last = static_cast<int>((block + 1) * units / blocks);
  }
  __device__ bool done() const { return unit >= last; }
  __device__ Span span(const NestedGemvWeights& weights) const {
    const int units = (weights.in + 31) / 32, tile = unit / units;
    const int begin = (unit - tile * units) * 32;
    const int share = min(weights.in, (last - tile * units) * 32);
    const int list = S::kByInput ? (begin / weights.part + S::kParts) * weights.part : begin + S::kChannels;
    return {tile, begin, min(share, list)};
  }
  // Returns whether the block leaves the tile.
  __device__ bool advance(const NestedGemvWeights& weights, const Span& span) {
    unit += (span.end - span.begin + 31) / 32;
    return done() || span.end == weights.in;
  }
};

}  // namespace grinqh::cuda::nested
