// Which rows a warp fetches next: in the order of the list, plane by plane, unit by unit, tile by tile.
#pragma once

#include "kernels/nested/gemv_units.cuh"

namespace grinqh::cuda::nested {

// Places of channels that are read digit by digit, without a table.
__device__ inline int linear_count(const Problem& p, const Warp& warp, int unit) {
  return warp.count_of(p, unit, p.w.tabled_planes);
}

// Over the tiles tile, tile + step, ... below end. Channels that a table reads come after the others, those
// of a level together: all planes of 16 channels, then of the next 16.
template <class S>
class Cursor {
 public:
  __device__ Cursor(const Problem& p, const Warp& warp, int tile, int end, int step)
      : p_(p), warp_(warp), tile_(tile), end_(end), step_(step) {
    more_ = warp.count > 0 && tile < end;
  }

  // The list is there.
  __device__ void begin() {
    if (more_) find_plane();
  }

  __device__ bool has_slot() const { return position_ < count_; }
  __device__ bool has_unit() const { return more_; }
  __device__ int tile() const { return tile_; }
  __device__ int unit() const { return unit_; }
  __device__ int number() const { return number_; }  // of the unit, counted over all tiles

  // Of the slot: bytes of a row, places in it, and whether its second half is used.
  __device__ bool singles() const { return S::kSingles && singles_; }
  __device__ bool whole() const { return !singles() || !in_class(); }
  // The place whose row this lane copies of the slot's first half; places from count() on have none.
  __device__ int place() const { return position_ + row_; }
  __device__ int count() const { return count_; }
  // This lane's 16 bytes of the unit's first channel's row; shared address of the unit's list.
  __device__ const uint8_t* rows() const { return rows_; }
  __device__ uint32_t list() const { return list_; }

  __device__ void next_slot() {
    if (in_class()) return next_of_class();
    position_ += singles() ? 32 : 16;
    if (position_ >= count_) {
      ++plane_;
      find_plane();
    }
  }
  // False if there are no more.
  __device__ bool next_unit() {
    if (++unit_ * p_.unit >= warp_.count) {
      unit_ = 0;
      tile_ += step_;
      more_ = tile_ < end_;
      if (!more_) return false;
    }
    ++number_;
    plane_ = class_ = 0;
    find_plane();
    return true;
  }

 private:
  __device__ bool in_class() const { return S::kTables && class_ > 0; }

  // Counts fall from plane to plane.
  __device__ void find_plane() {
    position_ = 0;
    count_ = warp_.count_of(p_, unit_, plane_);
    if constexpr (S::kTables) count_ = min(count_, linear_count(p_, warp_, unit_));
    if (count_ > 0)
      find_rows();
    else if constexpr (S::kTables)
      enter_class(p_.w.tabled_planes);
  }
  // Channels that have so many planes, or the next fewer ones.
  __device__ void enter_class(int planes) {
    plane_ = 0;
    for (class_ = planes; class_ > 0; --class_) {
      position_ = warp_.count_of(p_, unit_, class_);
      count_ = warp_.count_of(p_, unit_, class_ - 1);
      if (position_ < count_) return find_rows();
    }
    count_ = 0;
  }
  __device__ void next_of_class() {
    if (++plane_ < class_) return find_rows();
    plane_ = 0;
    position_ += 16;
    if (position_ < count_)
      find_rows();
    else
      enter_class(class_ - 1);
  }

  __device__ void find_rows() {
    singles_ = S::kSingles && p_.w.order.bits(plane_) == 1;
    const int bytes = singles() ? 32 : 64, lanes = bytes / 16;  // of a row
    row_ = warp_.lane / lanes;
    list_ = shared_address(warp_.list(p_, unit_));
    rows_ = p_.w.digits + tile_ * p_.tile_bytes +
            (p_.plane_at[plane_] + (warp_.begin + unit_ * p_.unit) * bytes) + warp_.lane % lanes * 16;
  }

  const Problem& p_;
  const Warp& warp_;
  int tile_, end_, step_, unit_ = 0, number_ = 0;
  int plane_ = 0, position_ = 0, count_ = 0;
  int class_ = 0;  // planes of the channels that are read by a table, 0: none yet
  bool more_ = false, singles_ = false;
  const uint8_t* rows_ = nullptr;
  uint32_t list_ = 0;
  int row_ = 0;
};

}  // namespace grinqh::cuda::nested
