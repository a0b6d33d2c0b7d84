// What a warp keeps of its units: in registers of its lanes, in its part of shared memory.
#pragma once

#include "cuda/shared_memory.cuh"
#include "kernels/nested/gemv_units.cuh"

namespace grinqh::cuda::nested {

__device__ inline uint32_t load_byte(uint32_t address) {
  uint32_t v;
  asm volatile("ld.shared.u8 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
  return v;
}

// What channels read that are above a threshold. read: as Problem::steps; threshold: if all channels share
// it.
struct alignas(8) Step {
  float threshold;
  uint32_t read;
};

constexpr uint32_t kUnlisted = 0xff;  // instead of a place in the list

// A lane's channels of a unit: inputs (0 where nothing is read), levels, places in the list or kUnlisted.
template <class S>
struct LaneChannels {
  float x[S::kTokens][S::kLane];
  uint32_t levels[S::kTokens][S::kLane], places[S::kLane];
};

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
  // Several tokens only: planes that a token has of the channel at a place of the list.
  __device__ uint8_t* planes(int token, int turn) const {
    return memory + Memory::kPlanes + (turn * S::kTokens + token) * S::kMaxUnit;
  }

  // Puts a lane's channels aside until their integers are made.
  __device__ void put_aside(const LaneChannels<S>& channels) const {
#pragma unroll
    for (int i = 0; i < S::kLane / 4; ++i) {
#pragma unroll
      for (int t = 0; t < S::kTokens; ++t) {
        const auto& x = channels.x[t];
        x_at(t, i) = make_float4(x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]);
        word_at(Memory::kLevels, t, i) = packed(channels.levels[t], 4 * i);
      }
      word_at(Memory::kPlacesOf, 0, i) = packed(channels.places, 4 * i);
    }
  }
  __device__ LaneChannels<S> take_back() const {
    LaneChannels<S> channels;
#pragma unroll
    for (int i = 0; i < S::kLane / 4; ++i) {
#pragma unroll
      for (int t = 0; t < S::kTokens; ++t) {
        auto& x = channels.x[t];
        const float4 four = x_at(t, i);
        x[4 * i] = four.x, x[4 * i + 1] = four.y, x[4 * i + 2] = four.z, x[4 * i + 3] = four.w;
        unpack(word_at(Memory::kLevels, t, i), 4 * i, channels.levels[t]);
      }
      unpack(word_at(Memory::kPlacesOf, 0, i), 4 * i, channels.places);
    }
    return channels;
  }

 private:
  __device__ float4& x_at(int token, int i) const {
    return reinterpret_cast<float4*>(memory + Memory::kX)[(token * 32 + lane) * (S::kLane / 4) + i];
  }
  __device__ uint32_t& word_at(int offset, int token, int i) const {
    return reinterpret_cast<uint32_t*>(memory + offset)[(token * 32 + lane) * (S::kLane / 4) + i];
  }
};

}  // namespace grinqh::cuda::nested
