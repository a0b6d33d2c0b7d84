// A unit's list of channels, and which planes are read without one.
#pragma once

#include "kernels/nested/gemv_channels.cuh"
#include "kernels/nested/gemv_factors.cuh"
#include "kernels/nested/gemv_grading.cuh"

namespace grinqh::cuda::nested {

// Makes the unit's list. places: of this lane's channels; planes: of them that are read.
template <class S>
__device__ inline void list_channels(const Problem& p, const Warp<S>& warp, int turn, int unlisted,
                                     const int (&planes)[S::kLane], uint32_t (&places)[S::kLane]) {
  uint8_t* list = warp.list(turn);
  if constexpr (S::kTables) {  // places that no channel takes are fetched too
    for (int place = warp.lane; place < S::kPlaces; place += 32) list[place] = 0;
    __syncwarp();
  }
  const int most = p.w.order.planes;
  if (!S::kSingles || most <= 4 + unlisted)
    place_channels<S, uint32_t>(planes, most, unlisted, warp.lane, places, warp.counts(turn));
  else
    place_channels<S, uint64_t>(planes, most, unlisted, warp.lane, places, warp.counts(turn));
#pragma unroll
  for (int i = 0; i < S::kLane; ++i)
    if (places[i] != kUnlisted) list[places[i]] = static_cast<uint8_t>(warp.lane * S::kLane + i);
}

// Planes of a unit that are fetched before the inputs are there, of all its channels.
template <class S>
__device__ inline int planes_ahead(const Problem& p, const Unit& unit) {
  if (!graded<S>(p, unit.layer)) return static_cast<int>(p.steps[unit.layer][0] >> 8);
  return S::kTables ? 0 : 1;  // a table's codes are read whole
}

// Counts of a unit, as if it had no list.
template <class S>
__device__ inline void count_unlisted(const Problem& p, const Warp<S>& warp, const Unit& unit, int turn,
                                      int planes) {
  if (warp.lane <= NestedOrder::kMaxPlanes)
    warp.counts(turn)[warp.lane] = static_cast<uint8_t>(warp.lane < planes ? unit.channels : 0);
  if (warp.lane == 0) warp.unlisted(turn) = static_cast<uint8_t>(planes);
}

// Whether the first plane of all channels may as well be read as of those that have it: one copy brings rows
// of neighbours, each of a list's rows takes four lanes.
template <class S>
__device__ inline bool most_are_read(const Unit& unit, const int (&planes)[S::kLane]) {
  uint32_t read = 0;
#pragma unroll
  for (int i = 0; i < S::kLane; ++i) read += planes[i] > 0 ? 1 : 0;
  return __reduce_add_sync(0xffffffffu, read) * 8 >= static_cast<uint32_t>(unit.channels) * 7;
}

// The list of a unit that is graded. most: planes of this lane's channels that any token reads. first: rows
// of the unit are under way.
template <class S>
__device__ inline void list_unit(const Problem& p, const Warp<S>& warp, const Unit& unit, int turn,
                                 bool first, const int (&most)[S::kLane], uint32_t (&places)[S::kLane]) {
  int unlisted = planes_ahead<S>(p, unit);
  if (!first) {
    if (unlisted > 0 && !most_are_read<S>(unit, most)) unlisted = 0;
    count_unlisted(p, warp, unit, turn, unlisted);
    __syncwarp();
  }
  if constexpr (S::kSkips) {
    uint32_t flags = 0;
#pragma unroll
    for (int i = 0; i < S::kLane; ++i) flags |= most[i] > 0 ? 1u << i : 0u;
    warp.flags()[warp.lane] = static_cast<uint8_t>(flags);
  }
  list_channels(p, warp, turn, unlisted, most, places);
}

}  // namespace grinqh::cuda::nested
