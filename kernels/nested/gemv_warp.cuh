// What a warp keeps of its units: in registers of its lanes, in its part of shared memory.
#pragma once

#include "cuda/shared_memory.cuh"
#include "kernels/nested/gemv_loads.cuh"
#include "kernels/nested/gemv_units.cuh"

namespace grinqh::cuda::nested {

__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int other = 16; other > 0; other /= 2) value += __shfl_xor_sync(0xffffffffu, value, other);
  return value;
}

// What channels read that are above a threshold. read: as Problem::steps; threshold: if all channels share
// it.
struct alignas(8) Step {
  float threshold;
  uint32_t read;
};

constexpr uint32_t kUnlisted = 0xff;  // instead of a place in the list

// A lane's channels of a unit and a single token: inputs (0 where nothing is read), levels, places in the
// list or kUnlisted.
template <class S>
struct LaneChannels {
  float x[S::kLane];
  uint32_t levels[S::kLane], places[S::kLane];
};

// Those of several tokens lie in the warp's memory.
struct TokenChannels {};

// Four numbers below 256 as a word.
template <int kCount>
__device__ inline uint32_t packed(const uint32_t (&of)[kCount], int first) {
  return of[first] | of[first + 1] << 8 | of[first + 2] << 16 | of[first + 3] << 24;
}
template <int kCount>
__device__ inline void unpack(uint32_t word, int first, uint32_t (&to)[kCount]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) to[first + i] = word >> 8 * i & 255u;
}

// A warp's memory. turn: of a unit, 0 and 1 in turns.
template <class S>
struct Warp {
  using Memory = WarpMemory<S>;
  uint8_t* memory;
  int lane;

  __device__ uint32_t* grids(int turn) const {
    return reinterpret_cast<uint32_t*>(memory + Memory::kGrids +
                                       (S::kByInput && S::kMany ? turn * Memory::kGridBytes : 0));
  }
  // listed: in the order of the list, else of the channels.
  __device__ uint8_t* integers(bool listed, int token) const {
    return memory + (listed ? Memory::kListed : Memory::kIntegers) + token * Memory::kIntegerBytes;
  }
  __device__ uint8_t* list(int turn) const { return memory + Memory::kLists + turn * Memory::kListBytes; }
  // How many channels have each plane, none beyond the last.
  __device__ uint8_t* counts(int turn) const { return memory + Memory::kCounts + turn * Memory::kCountBytes; }
  __device__ int count(int turn, int plane) const {
    return static_cast<int>(load_byte(shared_address(counts(turn)) + plane));
  }
  // Planes of which all channels are read, or those of a unit that is read alike: their rows and integers are
  // in the order of the channels, those of the planes behind them in the list's.
  __device__ uint8_t& unlisted(int turn) const { return counts(turn)[Memory::kCountBytes - 1]; }
  // Of channels that are read digit by digit, without a table.
  __device__ int linear_count(const Problem& p, int turn) const { return count(turn, p.w.tabled_planes); }
  // Whether two unlisted planes of one bit are read as one of two bits: those from `plane` on.
  __device__ bool joined(const Problem& p, int turn, int plane) const {
    if (!S::kJoins || plane + 1 >= min(p.w.order.planes, int{unlisted(turn)})) return false;
    return p.w.order.end[plane + 1] - p.w.order.begin[plane] == 2 && count(turn, plane + 1) > 0;
  }
  __device__ uint8_t* flags() const { return memory + Memory::kFlags; }
  // Of the rule that the unit's channels are graded by.
  __device__ Step& step(int number) const { return reinterpret_cast<Step*>(memory + Memory::kSteps)[number]; }
  __device__ uint32_t barrier(int slot) const {
    return shared_address(memory + Memory::kBarriers) + slot * 8;
  }
  __device__ uint32_t grids_barrier() const { return barrier(S::kDepth); }
  __device__ Unit& unit(int turn) const { return reinterpret_cast<Unit*>(memory + Memory::kUnits)[turn]; }

  // What this lane's channels have, of a unit whose integers are not made yet: inputs, levels and, of several
  // tokens, planes << 4; four to a word, places in the list.
  __device__ uint32_t inputs_at(int token) const { return shared_address(inputs(token)); }
  __device__ float4* inputs(int token) const { return of_lane<float4>(Memory::kX, token); }
  __device__ uint32_t* read_at(int token) const { return of_lane<uint32_t>(Memory::kLevels, token); }
  __device__ uint32_t* places_at() const { return of_lane<uint32_t>(Memory::kPlacesOf, 0); }
  // Several tokens only: planes that a token has of the list's channels, in the order of token_place().
  __device__ uint8_t* planes(int token) const { return memory + Memory::kPlanes + token * S::kMaxUnit; }

  // Puts a lane's channels aside.
  __device__ void put_aside(const LaneChannels<S>& channels) const {
    const auto& x = channels.x;
#pragma unroll
    for (int i = 0; i < S::kLane; i += 4) {
      inputs(0)[i / 4] = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
      read_at(0)[i / 4] = packed(channels.levels, i);
      places_at()[i / 4] = packed(channels.places, i);
    }
  }
  __device__ void take_back(LaneChannels<S>& channels) const {
    auto& x = channels.x;
#pragma unroll
    for (int i = 0; i < S::kLane; i += 4) {
      const float4 four = inputs(0)[i / 4];
      x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
      unpack(read_at(0)[i / 4], i, channels.levels);
      unpack(places_at()[i / 4], i, channels.places);
    }
  }
  __device__ void put_aside(TokenChannels) const {}
  __device__ void take_back(TokenChannels) const {}

 private:
  template <class T>
  __device__ T* of_lane(int offset, int token) const {
    return reinterpret_cast<T*>(memory + offset) + (token * 32 + lane) * (S::kLane / 4);
  }
};

}  // namespace grinqh::cuda::nested
