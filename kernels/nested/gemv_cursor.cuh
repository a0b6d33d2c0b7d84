// Which rows of a unit are fetched next: plane by plane, those of unlisted planes in the order of the
// channels, the others in that of the list. Channels that a table reads come after the others, those of a
// level together: all planes of 16 channels, then of the next 16.
#pragma once

#include "cuda/bulk_copy.cuh"
#include "kernels/nested/gemv_warp.cuh"

namespace grinqh::cuda::nested {

#if __CUDA_ARCH__ >= 900
template <class S>
struct Cursor {
  const uint8_t* rows =
      nullptr;        // listed: this lane's 16 bytes of the unit's first in the plane; else the next
  uint32_t list = 0;  // shared address, of the next place
  int rest = 0;       // places from there on
  int plane = 0;

  __device__ Cursor(const Problem& p, const Warp<S>& warp) : p_(p), warp_(warp) {}

  __device__ void enter(const Unit& unit, int turn) {
    unit_at_ = unit.tile * p_.tile_pieces;
    first_ = unit.first;
    turn_ = turn;
    unlisted_ = warp_.unlisted(turn);
    plane = class_ = 0;
    find_plane();
  }
  // The list has been made, and what was fetched before did not need it.
  __device__ void go_on() {
    skips_ = S::kSkips;
    if (rest <= 0) find_plane();
  }
  // Whether rows that no channel reads may be left out.
  __device__ bool skips() const { return S::kSkips && skips_; }
  // Of the unit, the channel or the place of the list that comes next.
  __device__ int place() const { return static_cast<int>(list - shared_address(warp_.list(turn_))); }

  // Whether this plane's rows are those of the list.
  __device__ bool listed() const { return plane >= unlisted_; }
  __device__ bool singles() const { return S::kSingles && singles_; }
  __device__ bool joined() const { return S::kJoins && joined_; }  // with the next plane
  __device__ bool in_class() const { return S::kTables && class_ > 0; }

  // What comes behind the rows that have been fetched, `bytes` of unlisted planes at most, to the second
  // cache.
  __device__ void bring(int bytes) const {
    int place = this->place();
    for (int of = plane; of < unlisted_ && bytes > 0; ++of) {
      const int pieces = S::kSingles && p_.w.order.bits(of) == 1 ? 2 : 4;
      const int size = min(bytes, (warp_.count(turn_, of) - place) * pieces * 16);
      const uint8_t* from =
          p_.w.digits + uint64_t{unit_at_ + p_.plane_at[of] + (first_ + place) * pieces} * 16;
      if (size > 0) prefetch_bulk(from, size);
      bytes -= size;
      if (of > plane || !joined()) place = 0;
    }
  }

  __device__ void next_slot() {
    if (in_class()) return next_of_class();
    const int places = singles() && !joined() ? S::kSingleBits : S::kPairs;
    rest -= places;
    list += places;
    if (rest > 0) return;
    plane += joined() ? 2 : 1;
    find_plane();
  }

 private:
  // Counts fall from plane to plane.
  __device__ void find_plane() {
    rest = warp_.count(turn_, plane);
    if constexpr (S::kTables) rest = min(rest, warp_.linear_count(p_, turn_));
    if (rest > 0)
      find_rows(0);
    else if constexpr (S::kTables)
      enter_class(p_.w.tabled_planes);
  }
  // Channels that have so many planes, or the next fewer ones.
  __device__ void enter_class(int planes) {
    plane = 0;
    for (class_ = planes; class_ > 0; --class_) {
      const int begin = warp_.count(turn_, class_);
      rest = warp_.count(turn_, class_ - 1) - begin;
      if (rest > 0) return find_rows(begin);
    }
  }
  __device__ void next_of_class() {
    const int place = this->place();
    if (++plane < class_) return find_rows(place);
    plane = 0;
    rest -= 16;
    if (rest > 0)
      find_rows(place + 16);
    else
      enter_class(class_ - 1);
  }
  // Of the plane, from a place of the list on.
  __device__ void find_rows(int place) {
    singles_ = S::kSingles && p_.w.order.bits(plane) == 1;
    joined_ = warp_.joined(p_, turn_, plane);
    const int pieces = singles() ? 2 : 4;  // of a row
    const uint32_t at = unit_at_ + p_.plane_at[plane] + first_ * pieces;
    rows = p_.w.digits + uint64_t{at + (listed() ? warp_.lane % pieces : place * pieces)} * 16;
    list = shared_address(warp_.list(turn_)) + place;
  }

  const Problem& p_;
  const Warp<S>& warp_;
  uint32_t unit_at_ = 0;  // in pieces of 16 bytes, the tile
  int first_ = 0, turn_ = 0, unlisted_ = 0;
  int class_ = 0;  // planes of the channels that are read by a table, 0: none yet
  bool singles_ = false, joined_ = false, skips_ = false;
};
#endif

}  // namespace grinqh::cuda::nested
