// The merges of a BPE model by their pair of ids: open addressing, filled once, then only read.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace grinqh {

struct Merge {
  int32_t rank;  // position in the list of merges; the lowest is applied first
  int32_t id;    // of the token that replaces the pair
};

class MergeTable {
 public:
  // At most half full, so that a search for an absent pair ends soon. Two slots at least keep the shift
  // valid.
  explicit MergeTable(size_t count)
      : slots_(std::bit_ceil(2 * count + 2)), shift_(64 - std::countr_zero(slots_.size())) {}

  // The later of two equal pairs stands, as in the library.
  void set(int32_t left, int32_t right, Merge merge) {
    Slot& slot = slots_[position(key(left, right))];
    slot = {key(left, right), merge};
  }
  const Merge* find(int32_t left, int32_t right) const {
    const Slot& slot = slots_[position(key(left, right))];
    return slot.key == kEmpty ? nullptr : &slot.merge;
  }

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};  // no pair of ids: they are not negative
  struct Slot {
    uint64_t key = kEmpty;
    Merge merge{};
  };

  static uint64_t key(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }
  // The slot of the key or the empty one where it belongs. Fibonacci hashing: the high bits of the product.
  size_t position(uint64_t key) const {
    size_t i = (key * 0x9E3779B97F4A7C15u) >> shift_;
    while (slots_[i].key != key && slots_[i].key != kEmpty) i = (i + 1) & (slots_.size() - 1);
    return i;
  }

  std::vector<Slot> slots_;  // a power of two
  int shift_;
};

}  // namespace grinqh
