// A warp's ring of slots: rows under way, and rows that have come and are to be multiplied. A barrier for
// each slot says so, at which all lanes arrive: at once where one copy brings all rows, else behind their
// own.
// Of joined planes, the first one's rows lie in the first half of a slot, the second one's in the other.
#pragma once

#include "kernels/nested/gemv_copies.cuh"
#include "kernels/nested/gemv_cursor.cuh"

namespace grinqh::cuda::nested {

#if __CUDA_ARCH__ >= 900
template <class S>
class Ring {
 public:
  // After init_barriers().
  __device__ Ring(const Problem& p, const Warp<S>& warp)
      : p_(p), warp_(warp), at_(p, warp), base_(shared_address(warp.memory)), policy_(read_once_policy()) {}

  // What is fetched next are the rows of this unit: of all planes, if its list has been made, else of those
  // that do not go by it, and of the others after go_on().
  __device__ void enter(const Unit& unit, int turn) { at_.enter(unit, turn); }
  __device__ void go_on() { at_.go_on(); }
  // Whether all rows of the unit that was entered last have been asked for.
  __device__ bool has_all() const { return at_.rest <= 0; }

  // As much as there is room for. In runs of one unit: before anything is released.
  __device__ void fill() {
    if constexpr (S::kMany) {
      while (under_way_ < S::kDepth && fetch_one()) {
      }
    } else {
#pragma unroll 1
      for (; next_ < S::kDepth && !has_all(); ++next_) fetch(next_);
    }
  }
  // The same of a ring that nothing has come to yet, but one slot at a time: the launch before has more use
  // for the way to this multiprocessor. Runs of one unit.
  __device__ void fill_slowly() {
#pragma unroll 1
    for (; next_ < S::kDepth && !has_all(); ++next_) {
      if (next_ > 0) wait_barrier(barrier(next_ - 1), 0);
      fetch(next_);
    }
  }
  // Rows for which a ring that was filled slowly has no room yet, to the second cache. They stay there, as
  // what the launch before streams through it goes first.
  __device__ void bring_ahead() {
    if (has_all()) return;
    wait_barrier(barrier(next_ - 1), 0);
    if (warp_.lane == 0) at_.bring(S::kAheadBytes);
  }

  // False if there is nothing to fetch. There is room for a slot.
  __device__ bool fetch_one() {
    if (has_all()) return false;
    fetch(next_);
    if constexpr (S::kMany) {
      ++under_way_;
      if (++next_ == S::kDepth) next_ = 0;
    }
    return true;
  }

  // Until the oldest slot has come.
  __device__ void await() const { wait_barrier(barrier(oldest_), phase_); }
  __device__ uint32_t oldest() const { return base_ + oldest_ * S::kSlotBytes; }
  // All lanes have read the oldest slot.
  __device__ void release() {
    if constexpr (S::kMany)
      --under_way_;
    else
      next_ = oldest_;
    if (++oldest_ == S::kDepth) oldest_ = 0, phase_ ^= 1;
  }

 private:
  __device__ uint32_t barrier(int slot) const { return base_ + WarpMemory<S>::kBarriers + slot * 8; }

  __device__ void fetch(int slot) {
    const uint32_t to = base_ + slot * S::kSlotBytes;
    if (at_.listed())
      copy_listed(to + warp_.lane * 16, barrier(slot));
    else if (at_.skips())
      copy_read(to + warp_.lane * 16, barrier(slot));
    else
      copy_run(to, barrier(slot));
    at_.next_slot();
  }
  // Rows of neighbours.
  __device__ void copy_run(uint32_t to, uint32_t barrier) {
    const int most = at_.joined() ? S::kSlotBytes / 2 : S::kSlotBytes;
    if (warp_.lane == 0) {
      const int bytes = min(most, at_.rest * (at_.singles() ? 32 : 64));
      expect_more_bytes(barrier, at_.joined() ? 2 * bytes : bytes);
      copy_bulk(at_.rows, to, bytes, barrier, policy_);
      if (at_.joined())
        copy_bulk(at_.rows + (p_.plane_at[at_.plane + 1] - p_.plane_at[at_.plane]) * 16, to + most, bytes,
                  barrier, policy_);
    }
    arrive(barrier);
    at_.rows += most;
  }
  // Those of a run that are read. to: where this lane's first 16 bytes belong.
  __device__ void copy_read(uint32_t to, uint32_t barrier) {
    const int rows = at_.singles() ? 16 : 8, row = at_.singles() ? warp_.lane / 2 : warp_.lane / 4;
    const uint32_t flags = shared_address(warp_.flags());
#pragma unroll
    for (int i = 0; i < S::kCopies; ++i) {
      const int channel = at_.place() + row + i * rows;
      copy_row(to + i * kCopyBytes, at_.rows + warp_.lane * 16 + i * kCopyBytes,
               (load_byte(flags + channel / 8) >> channel % 8 & 1) != 0);
    }
    arrive_behind_copies(barrier);
    at_.rows += S::kSlotBytes;
  }
  // to: where this lane's first 16 bytes belong.
  __device__ void copy_listed(uint32_t to, uint32_t barrier) {
    const int rows = at_.singles() ? 16 : 8, row = at_.singles() ? warp_.lane / 2 : warp_.lane / 4;
    const int bytes = at_.singles() ? 32 : 64;
    // A table's codes are of 16 channels, whatever the plane.
    const int copies = at_.singles() && at_.in_class() ? 1 : S::kCopies;
    uint32_t channels[S::kCopies];
#pragma unroll
    for (int i = 0; i < S::kCopies; ++i) channels[i] = load_byte(at_.list + row + i * rows);
#pragma unroll
    for (int i = 0; i < S::kCopies; ++i)
      if (i < copies)
        copy_row(to + i * kCopyBytes, at_.rows + channels[i] * bytes, row + i * rows < at_.rest);
    arrive_behind_copies(barrier);
  }

  const Problem& p_;
  const Warp<S>& warp_;
  Cursor<S> at_;
  uint32_t base_, phase_ = 0;
  uint64_t policy_;
  // under_way_: slots that are not free; of runs of many units. (Others fill what they release.)
  int oldest_ = 0, next_ = 0, under_way_ = 0;
};
#endif

}  // namespace grinqh::cuda::nested
