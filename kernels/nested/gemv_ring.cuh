// A warp's ring of slots: rows under way, and rows that have come and are to be multiplied.
#pragma once

#include "kernels/nested/gemv_copies.cuh"
#include "kernels/nested/gemv_cursor.cuh"

namespace grinqh::cuda::nested {

// Fetches of the tiles tile, tile + step, ... below end.
template <class S>
class Ring {
 public:
  __device__ Ring(const Problem& p, const Warp& warp, int tile, int end, int step)
      : p_(p), warp_(warp), cursor_(p, warp, tile, end, step), base_(shared_address(warp.memory)) {
    next_ = base_ + warp.lane * 16;
    oldest_ = base_;
  }

  __device__ void fetch_first_grids() const {
    if (cursor_.has_unit()) copy_grids<S>(p_, warp_, cursor_.tile(), 0, 0);
    commit_copies();
  }
  __device__ void prefetch_likely() const {
    if (cursor_.has_unit()) nested::prefetch_likely(p_, warp_, cursor_.tile());
  }

  // The list is there.
  __device__ void begin() { cursor_.begin(); }

  // Fetches until kMost slots are under way, but of units up to number `limit` only: grids of others are in
  // use.
  template <int kMost>
  __device__ void fill(int limit) {
    while (in_flight_ < kMost && fetch_one(limit)) {
    }
  }

  // False if there is nothing to fetch, or not yet. A unit's grids come with its first slot.
  __device__ bool fetch_one(int limit) {
    if (!cursor_.has_slot()) {
      if (!cursor_.has_unit() || cursor_.number() >= limit) return false;
      if (!cursor_.next_unit()) return false;
      copy_grids<S>(p_, warp_, cursor_.tile(), cursor_.unit(), cursor_.number());
      if (!cursor_.has_slot()) return true;
    }
    const int place = cursor_.place(), half = cursor_.singles() ? 16 : 8, shift = cursor_.singles() ? 5 : 6;
    uint32_t near = place, far = place + half;
    if (warp_.listed) near = load_byte(cursor_.list() + near), far = load_byte(cursor_.list() + far);
    copy_row(next_, cursor_.rows() + (near << shift), place < cursor_.count());
    if (cursor_.whole())
      copy_row(next_ + kSlotBytes / 2, cursor_.rows() + (far << shift), place + half < cursor_.count());
    commit_copies();
    next_ += kSlotBytes;
    if (next_ >= base_ + kBytes) next_ -= kBytes;
    ++in_flight_;
    cursor_.next_slot();
    return true;
  }

  // Until the oldest slot has come; of all lanes after a __syncwarp().
  __device__ void await() const { await_all_but<S::kDepth - 2>(in_flight_ - 1); }
  // Until what was fetched before all slots has come.
  __device__ void await_first_grids() const { await_all_but<S::kDepth - 1>(in_flight_); }

  __device__ uint32_t oldest() const { return oldest_; }
  __device__ void release() {
    --in_flight_;
    oldest_ += kSlotBytes;
    if (oldest_ == base_ + kBytes) oldest_ = base_;
  }

 private:
  static constexpr uint32_t kBytes = S::kDepth * kSlotBytes;

  // At most kMost are under way.
  template <int kMost>
  __device__ void await_all_but(int slots) const {
    if constexpr (kMost == 0) {
      wait_copies<0>();
    } else {
      if (slots >= kMost)
        wait_copies<kMost>();
      else
        await_all_but<kMost - 1>(slots);
    }
  }

  const Problem& p_;
  const Warp& warp_;
  Cursor<S> cursor_;
  // Shared addresses: the ring's begin, this lane's 16 bytes of the next slot, the oldest slot.
  uint32_t base_, next_, oldest_;
  int in_flight_ = 0;
};

}  // namespace grinqh::cuda::nested
