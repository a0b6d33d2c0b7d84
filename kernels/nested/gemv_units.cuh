// A warp's run of channels, unit by unit, and the memory that it has for them.
#pragma once

#include "cuda/shared_memory.cuh"
#include "kernels/nested/gemv_plan.cuh"

namespace grinqh::cuda::nested {

// Channels first .. first + channels - 1 of a tile; none: there is no such unit. left: of the run from
// `first` on, with what a tile's last quantum has beyond its channels.
struct Unit {
  int tile, first, channels, left, layer;

  __device__ bool exists() const { return channels > 0; }
};

template <class S>
__device__ inline Unit unit_at(const Problem& p, const NestedRun& run) {
  int channels = min(min(p.schedule.unit, run.left), p.w.order.in - run.first);
  if (S::kByInput) channels = min(channels, p.w.group - run.first % p.w.group);
  return {run.tile, run.first, channels, run.left, run.layer};
}
template <class S>
__device__ inline Unit unit_after(const Problem& p, const Unit& unit) {
  const int next = unit.first + unit.channels;
  if (next < p.w.order.in) return unit_at<S>(p, {unit.tile, next, unit.left - unit.channels, unit.layer});
  constexpr int kQuantum = NestedRun::kQuantum;
  const int padded = (p.w.order.in + kQuantum - 1) / kQuantum * kQuantum;
  NestedRun run{unit.tile + 1, 0, unit.left - (padded - unit.first), unit.layer};
  while (run.left > 0 && run.tile >= p.w.first_tile[run.layer + 1]) ++run.layer;
  return unit_at<S>(p, run);
}

// Else all channels are read alike, in their order.
__device__ inline bool graded(const Problem& p, int layer) { return p.readings[layer].rule.count > 0; }

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

// A lane's channels of a unit: inputs (0 where nothing is read), levels, places in the list.
template <class S>
struct LaneChannels {
  static constexpr int kWords = S::kLane / 4;
  float x[S::kTokens][S::kLane];
  uint32_t levels[S::kTokens][kWords], places[kWords];
};

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
  __device__ uint8_t* integers(int token) const {
    return memory + Memory::kIntegers + token * Memory::kIntegerBytes;
  }
  __device__ uint8_t* list(int turn) const { return memory + Memory::kLists + turn * Memory::kListBytes; }
  // How many channels have each plane, none beyond the last.
  __device__ uint8_t* counts(int turn) const { return memory + Memory::kCounts + turn * Memory::kCountBytes; }
  __device__ int count(int turn, int plane) const {
    return static_cast<int>(load_byte(shared_address(counts(turn)) + plane));
  }
  // Of channels that are read digit by digit, without a table.
  __device__ int linear_count(const Problem& p, int turn) const { return count(turn, p.w.tabled_planes); }
  // Whether two planes of one bit that all channels have are read as one of two bits: those from `plane` on.
  __device__ bool joined(const Problem& p, int turn, bool listed, int plane) const {
    if (!S::kJoins || listed || plane + 1 >= p.w.order.planes) return false;
    return p.w.order.end[plane + 1] - p.w.order.begin[plane] == 2 && count(turn, plane + 1) > 0;
  }
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
        word_at(Memory::kLevels, t, i) = channels.levels[t][i];
      }
      word_at(Memory::kPlacesOf, 0, i) = channels.places[i];
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
        channels.levels[t][i] = word_at(Memory::kLevels, t, i);
      }
      channels.places[i] = word_at(Memory::kPlacesOf, 0, i);
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
