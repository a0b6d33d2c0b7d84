// A vector of plain elements that nobody fills with zeros before they are written: resize() leaves new ones
// as they are. One of a gigabyte costs no time until it is used.
#pragma once

#include <memory>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/blocks.h"

namespace grinqh {

template <class T>
class PlainAllocator {
  static_assert(std::is_trivial_v<T>);

 public:
  using value_type = T;
  PlainAllocator() = default;
  template <class U>
  PlainAllocator(const PlainAllocator<U>&) {}

  T* allocate(size_t count) { return static_cast<T*>(take_block(count * sizeof(T))); }
  void deallocate(T* data, size_t count) { give_block(data, count * sizeof(T)); }

  template <class U>
  void construct(U* place) {
    ::new (static_cast<void*>(place)) U;
  }
  template <class U, class... From>
  void construct(U* place, From&&... from) {
    ::new (static_cast<void*>(place)) U(std::forward<From>(from)...);
  }
  friend bool operator==(const PlainAllocator&, const PlainAllocator&) { return true; }
};

template <class T>
using PlainVector = std::vector<T, PlainAllocator<T>>;

}  // namespace grinqh
