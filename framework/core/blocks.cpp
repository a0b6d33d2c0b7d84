#include "core/blocks.h"

#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <vector>

namespace grinqh {

namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kLarge = size_t{4} << 20;  // blocks of this size on are kept
constexpr size_t kPage = size_t{2} << 20;   // a large one

#ifdef __SANITIZE_ADDRESS__
constexpr bool kKeeps = false;  // what is used after it was given back shall show
#else
constexpr bool kKeeps = true;
#endif

// Eight sizes an octave: blocks of about a size can stand for each other. What is never touched costs
// nothing.
size_t rounded(size_t bytes, size_t step) { return (bytes + step - 1) / step * step; }
size_t size_class(size_t bytes) { return rounded(bytes, std::max(kPage, std::bit_floor(bytes) / 8)); }

class Kept {
 public:
  void* take(size_t size) {
    const std::lock_guard lock(mutex_);
    const auto found = blocks_.find(size);
    if (found == blocks_.end() || found->second.empty()) return nullptr;
    void* block = found->second.back();
    found->second.pop_back();
    bytes_ -= size;
    return block;
  }
  bool give(void* block, size_t size) {
    const std::lock_guard lock(mutex_);
    if (bytes_ + size > most_) return false;
    blocks_[size].push_back(block);
    bytes_ += size;
    return true;
  }
  size_t bytes() {
    const std::lock_guard lock(mutex_);
    return bytes_;
  }

 private:
  std::mutex mutex_;
  std::map<size_t, std::vector<void*>> blocks_;  // by size
  size_t bytes_ = 0;
  const size_t most_ =
      static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) / 16 * static_cast<size_t>(sysconf(_SC_PAGE_SIZE));
};

// Never destroyed: matrices with static lifetime give their blocks back after everything else.
Kept& kept() {
  static Kept* const all = new Kept();
  return *all;
}

}  // namespace

void* take_block(size_t bytes) {
  const bool large = kKeeps && bytes >= kLarge;
  const size_t size = large ? size_class(bytes) : rounded(std::max<size_t>(bytes, 1), kAlignment);
  if (large)
    if (void* block = kept().take(size)) return block;
  void* block = std::aligned_alloc(large ? kPage : kAlignment, size);
  if (!block) throw std::bad_alloc();
  if (large) madvise(block, size, MADV_HUGEPAGE);  // a wish: without such pages it is slower, not wrong
  return block;
}

void give_block(void* block, size_t bytes) noexcept {
  if (!block) return;
  if (kKeeps && bytes >= kLarge && kept().give(block, size_class(bytes))) return;
  std::free(block);
}

size_t kept_bytes() { return kept().bytes(); }

}  // namespace grinqh
