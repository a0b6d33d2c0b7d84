// Which rows a warp reads: its channels graded by the magnitudes of their inputs, and listed by how many
// planes of them are read.
#pragma once

#include "cuda/decode.cuh"
#include "kernels/nested/gemv_warp.cuh"

namespace grinqh::cuda::nested {

// A unit's channels of more than `unlisted` planes, by falling number. planes: of this lane's, at most
// `most`, unlisted + bytes of a Word. places: where they stand in the list, or kUnlisted; counts(plane): how
// many have that plane, from `unlisted` on; each number of planes begins at a multiple of kWhole, and places
// between count. All lanes of a warp.
//
// A counting sort: a byte of Word for each number of planes, the most planes lowest. Multiplied by ones,
// every byte becomes the sum of itself and those below it.
template <class S, class Word>
__device__ inline void place_channels(const int (&planes)[S::kLane], int most, int unlisted, int lane,
                                      uint32_t (&places)[S::kLane], uint8_t* counts) {
  constexpr Word kOnes = static_cast<Word>(0x0101010101010101ull),
                 kWhole = S::kTables ? NestedOrder::kStep : 1;
  int fields[S::kLane];
  Word mine = 0;
#pragma unroll
  for (int i = 0; i < S::kLane; ++i) {
    fields[i] = 8 * (most - planes[i]);
    if (planes[i] > unlisted) mine += Word{1} << fields[i];
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
    places[i] = kUnlisted;
    if (planes[i] <= unlisted) continue;
    places[i] = static_cast<uint32_t>(next >> fields[i]) & 255u;
    next += Word{1} << fields[i];
  }
  if (lane >= unlisted && lane <= NestedOrder::kMaxPlanes)
    counts[lane] = lane < most ? static_cast<uint8_t>(ends >> 8 * (most - 1 - lane)) : 0;
}

}  // namespace grinqh::cuda::nested
