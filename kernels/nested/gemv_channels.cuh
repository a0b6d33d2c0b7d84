// Which rows a warp reads: its channels graded by the magnitudes of their inputs, and listed by how many
// planes of them are read.
#pragma once

#include "cuda/decode.cuh"
#include "kernels/nested/gemv_units.cuh"

namespace grinqh::cuda::nested {

constexpr uint32_t kUnread = 0xff;  // instead of a place in the list

// A unit's channels by falling number of planes. planes: of this lane's, at most `most`, no more than a Word
// has bytes. places: where they stand in the list, or -1; counts(plane): how many have that plane; each
// number of planes begins at a multiple of kWhole, and places between count. All lanes of a warp.
//
// A counting sort: a byte of Word for each number of planes, the most planes lowest. Multiplied by ones,
// every byte becomes the sum of itself and those below it.
template <class S, class Word>
__device__ inline void place_channels(const int (&planes)[S::kLane], int most, int lane,
                                      int (&places)[S::kLane], uint8_t* counts) {
  constexpr Word kOnes = static_cast<Word>(0x0101010101010101ull),
                 kWhole = S::kTables ? NestedOrder::kStep : 1;
  int fields[S::kLane];
  Word mine = 0;
#pragma unroll
  for (int i = 0; i < S::kLane; ++i) {
    fields[i] = 8 * (most - planes[i]);
    if (planes[i] > 0) mine += Word{1} << fields[i];
  }
  Word through = mine;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const Word other = __shfl_up_sync(0xffffffffu, through, step);
    if (lane >= step) through += other;
  }
  const Word all = __shfl_sync(0xffffffffu, through, 31);
  const Word ends = ((all + kOnes * (kWhole - 1)) & ~(kOnes * (kWhole - 1))) * kOnes;
  Word next = through - mine + (ends << 8);
#pragma unroll
  for (int i = 0; i < S::kLane; ++i) {
    places[i] = -1;
    if (planes[i] == 0) continue;
    places[i] = static_cast<int>(next >> fields[i] & 255);
    next += Word{1} << fields[i];
  }
  if (lane <= NestedOrder::kMaxPlanes)
    counts[lane] = lane < most ? static_cast<uint8_t>(ends >> 8 * (most - 1 - lane)) : 0;
}

}  // namespace grinqh::cuda::nested
