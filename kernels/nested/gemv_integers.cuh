// Inputs as 16-bit integers, as the high and the low byte that the tensor cores multiply by; and what does
// not depend on the digits: sums for the minima and for the middles of cells.
#pragma once

#include "kernels/nested/gemv_units.cuh"

namespace grinqh::cuda::nested {

constexpr float kMost = 32512.0f;  // the high byte of 32512 + 128 is still 127

__device__ inline float scale_of(uint32_t grid) { return float_of_half(static_cast<uint16_t>(grid)); }
__device__ inline float minimum_of(uint32_t grid) { return float_of_half(static_cast<uint16_t>(grid >> 16)); }

// 2^(7 - level): half a cell in units of the 8-bit step; nothing at level 0.
__device__ inline float half_cell(uint32_t level) {
  return level == 0 ? 0.0f : __uint_as_float((134 - level) << 23);
}

__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int other = 16; other > 0; other /= 2) value += __shfl_xor_sync(0xffffffffu, value, other);
  return value;
}

// Of a unit's channels and a token. Along the outputs the sums over x are of each column, with its scales and
// minima; along the inputs they are what both are multiplied by.
template <class S>
struct Factors {
  float unit = 0;  // that an integer stands for
  float middles[S::kColumns] = {};
  float inputs = 0;
};

// Makes the integers of a unit and a token. A table's positions are no middles of cells to be added. grids:
// the unit's, [channels][columns]; not used along the inputs. to: words (step, t, column), step: eight places
// of the list, with the high and the low byte of place t of the step, then of place t + 4.
template <class S>
__device__ Factors<S> make_integers(const Problem& p, const Warp& warp, int token, int unit,
                                    const uint32_t* grids, uint8_t* to) {
  constexpr int kColumns = S::kColumns, kLane = S::kLane;
  const int at = warp.lane * kLane;
  const bool valid = at < warp.channels(p, unit);
  Factors<S> factors;
  float values[kLane][kColumns] = {};
  uint32_t levels[kLane / 4] = {}, most = 0;  // most: of |x| as bits: what is no number is more than any
  if constexpr (S::kTables) {                 // zeros where no channel is
    for (int i = warp.lane; i < p.places * kColumns / 8; i += 32) reinterpret_cast<uint4*>(to)[i] = {};
    __syncwarp();
  }
  const uint32_t tabled = S::kTables && p.w.tabled_planes > 0 ? p.w.order.end[p.w.tabled_planes - 1] : 0;
  if (valid) {
    float x[kLane];
    uint32_t grid[kLane * kColumns] = {};
#pragma unroll
    for (int i = 0; i < kLane / 4; ++i) {
      const float4 four = reinterpret_cast<const float4*>(warp.x(p, token, unit) + at)[i];
      x[4 * i] = four.x, x[4 * i + 1] = four.y, x[4 * i + 2] = four.z, x[4 * i + 3] = four.w;
      levels[i] = reinterpret_cast<const uint32_t*>(warp.levels(p, token, unit) + at)[i];
    }
    if constexpr (!S::kByInput) {
#pragma unroll
      for (int i = 0; i < kLane * kColumns / 4; ++i) {
        const uint4 four = reinterpret_cast<const uint4*>(grids + at * kColumns)[i];
        grid[4 * i] = four.x, grid[4 * i + 1] = four.y, grid[4 * i + 2] = four.z, grid[4 * i + 3] = four.w;
      }
    }
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      const uint32_t level = levels[i / 4] >> 8 * (i % 4) & 255u;
      const float half = S::kTables && level <= tabled ? 0.0f : half_cell(level);
      if constexpr (S::kByInput) {
        values[i][0] = x[i];
        factors.inputs += x[i];
        factors.middles[0] = fmaf(x[i], half, factors.middles[0]);
      } else {
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          const float scale = scale_of(grid[i * kColumns + j]);
          values[i][j] = x[i] * scale;
          factors.middles[j] =
              fmaf(x[i], fmaf(scale, half, minimum_of(grid[i * kColumns + j])), factors.middles[j]);
        }
      }
#pragma unroll
      for (int j = 0; j < kColumns; ++j) most = max(most, __float_as_uint(fabsf(values[i][j])));
    }
  }
  const float largest = __uint_as_float(__reduce_max_sync(0xffffffffu, most));
  const float inverse = largest > 1e-30f ? __fdividef(kMost, largest) : 0.0f;
  factors.unit = largest * (1.0f / kMost);
  if (valid) {
    uint32_t pairs[kLane / 2];
#pragma unroll
    for (int i = 0; i < kLane / 2; ++i)
      pairs[i] = reinterpret_cast<const uint32_t*>(warp.places(p, unit) + at)[i];
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      const uint32_t place = pairs[i / 2] >> 16 * (i % 2) & 0xffffu;
      if (place == kUnread) continue;
      // Of 16-bit halves: step place / 8, word place % 4, half place / 4 % 2.
      auto* half = reinterpret_cast<uint16_t*>(to) +
                   ((place >> 3 << 2 | (place & 3)) * kColumns * 2 + (place >> 2 & 1));
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        // 1.5 2^23 + x rounds to integers, whose lowest bits are those of the mantissa.
        const uint32_t integer = __float_as_uint(fmaf(values[i][j], inverse, 12582912.0f));
        half[j * 2] = static_cast<uint16_t>(__byte_perm(integer, integer + 128, 0x0005));
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kColumns; ++j) factors.middles[j] = warp_sum(factors.middles[j]);
  if constexpr (S::kByInput) factors.inputs = warp_sum(factors.inputs);
  return factors;
}

}  // namespace grinqh::cuda::nested
