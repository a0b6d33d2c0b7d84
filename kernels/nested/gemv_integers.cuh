// Inputs as 16-bit integers, whose high and low bytes the tensor cores multiply by; and what does not depend
// on the digits: sums for the minima and for the middles of cells.
//
// Of eight places of a list, a step of a product with a single token, integers lie in the order (t, pair of
// columns, place t or t + 4, column); with a single column (t, place t or t + 4). Each is 256 high + low,
// both signed, with its lowest 16 bits as they are but for bit 7: so the low byte is signed when the high one
// is rounded.
#pragma once

#include "kernels/nested/gemv_inputs.cuh"

namespace grinqh::cuda::nested {

constexpr float kMost = 32512.0f;  // the high byte of 32512 + 128 is still 127
// Added to an input, it rounds to an integer, whose lowest bits are those of the mantissa.
constexpr float kRounding = 12582912.0f + 128.0f;

__device__ inline float scale_of(uint32_t grid) { return float_of_half(static_cast<uint16_t>(grid)); }
__device__ inline float minimum_of(uint32_t grid) { return float_of_half(static_cast<uint16_t>(grid >> 16)); }

// 2^(7 - level): half a cell in units of the 8-bit step. (At level 0 too: inputs are 0 there.)
__device__ inline float half_cell(uint32_t level) { return __uint_as_float((134 - level) << 23); }

template <class S>
constexpr int kStepBytes = 8 * S::kColumns * 2;

// Of place t of its step.
template <class S>
__device__ inline uint32_t integers_at(uint32_t place) {
  return place / 8 * kStepBytes<S> + place % 4 * (4 * S::kColumns) +
         place / 4 % 2 * (S::kColumns == 1 ? 2 : 4);
}

// Of a unit's channels and a token. Along the outputs the sums over x are of each column, with its scales and
// minima; along the inputs they are what both are multiplied by.
template <class S>
struct Factors {
  float unit = 0;  // that an integer stands for
  float middles[S::kColumns] = {};
  float inputs = 0;
};

// What a lane's channels of a token are multiplied by; adds to this lane's part of the sums. tabled: levels
// up to it have tables, whose positions are no middles of cells to be added. grids: the lane's, [channels]
// [columns]; not used along the inputs.
template <class S>
__device__ inline void scale_inputs(const float (&x)[S::kLane], const uint32_t (&levels)[S::kLane],
                                    uint32_t tabled, const uint32_t* grids,
                                    float (&values)[S::kLane][S::kColumns], Factors<S>& sums) {
  constexpr int kColumns = S::kColumns;
#pragma unroll
  for (int first = 0; first < S::kLane; first += 4) {
    uint32_t grid[4 * kColumns] = {};
    if constexpr (!S::kByInput) {
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        const uint4 g = reinterpret_cast<const uint4*>(grids + first * kColumns)[i];
        grid[4 * i] = g.x, grid[4 * i + 1] = g.y, grid[4 * i + 2] = g.z, grid[4 * i + 3] = g.w;
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t level = levels[first + i];
      const float half = S::kTables && level <= tabled ? 0.0f : half_cell(level), input = x[first + i];
      if constexpr (S::kByInput) {
        values[first + i][0] = input;
        sums.inputs += input;
        sums.middles[0] = fmaf(input, half, sums.middles[0]);
      } else {
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          const float scale = scale_of(grid[i * kColumns + j]);
          values[first + i][j] = input * scale;
          sums.middles[j] =
              fmaf(input, fmaf(scale, half, minimum_of(grid[i * kColumns + j])), sums.middles[j]);
        }
      }
    }
  }
}

template <class S>
__device__ inline void store_integers(uint8_t* integers, uint32_t place, const uint32_t (&of)[S::kColumns]) {
  uint8_t* at = integers + integers_at<S>(place);
  if constexpr (S::kColumns == 1) {
    *reinterpret_cast<uint16_t*>(at) = static_cast<uint16_t>(of[0] ^ 0x80u);
  } else {
#pragma unroll
    for (int j = 0; j < S::kColumns; j += 2)
      *reinterpret_cast<uint32_t*>(at + j * 4) = __byte_perm(of[j], of[j + 1], 0x5410) ^ 0x00800080u;
  }
}

// Makes the integers of a unit of `count` channels. In the order of the channels, those beyond
// them are zeros: no rows are copied there, and whatever lies in the ring is multiplied.
template <class S>
__device__ Factors<S> make_integers(const Problem& p, const Warp<S>& warp, const LaneChannels<S>& channels,
                                    int count, int turn) {
  constexpr int kColumns = S::kColumns, kLane = S::kLane;
  if constexpr (S::kTables) {  // zeros where no channel is
    auto* to = reinterpret_cast<uint4*>(warp.integers(true, 0));
    for (int i = warp.lane; i < S::kPlaces * kColumns / 8; i += 32) to[i] = {};
    __syncwarp();
  }
  const uint32_t tabled = S::kTables && p.w.tabled_planes > 0 ? p.w.order.end[p.w.tabled_planes - 1] : 0;
  Factors<S> factors;
  float values[kLane][kColumns];
  // Scales beyond the unit's channels may be anything, no numbers too.
  const bool exists = warp.lane * kLane < count;
  if (exists)
    scale_inputs<S>(channels.x, channels.levels, tabled, warp.grids(turn) + warp.lane * kLane * kColumns,
                    values, factors);
  const bool in_order = !S::kTables && (!S::kMany || warp.unlisted(turn) > 0);
  uint32_t most = 0;  // of |value| as bits: what is no number is more than any
#pragma unroll
  for (int i = 0; i < kLane; ++i)
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      if (!exists) values[i][j] = 0;
      most = max(most, __float_as_uint(fabsf(values[i][j])));
    }
  const float largest = __uint_as_float(__reduce_max_sync(0xffffffffu, most));
  const float inverse = largest > 1e-30f ? __fdividef(kMost, largest) : 0.0f;
  factors.unit = largest * (1.0f / kMost);
  __syncwarp();  // scales have been read where integers are stored
#pragma unroll
  for (int i = 0; i < kLane; ++i) {
    const uint32_t place = channels.places[i];
    uint32_t integers[kColumns];
#pragma unroll
    for (int j = 0; j < kColumns; ++j) integers[j] = __float_as_uint(fmaf(values[i][j], inverse, kRounding));
    if (in_order) store_integers<S>(warp.integers(false, 0), warp.lane * kLane + i, integers);
    if (place != kUnlisted) store_integers<S>(warp.integers(true, 0), place, integers);
  }
#pragma unroll
  for (int j = 0; j < kColumns; ++j) factors.middles[j] = warp_sum(factors.middles[j]);
  if constexpr (S::kByInput) factors.inputs = warp_sum(factors.inputs);
  return factors;
}

}  // namespace grinqh::cuda::nested
