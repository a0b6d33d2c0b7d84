// Decoding kernels by layout and name, for one kind of device each (quant/gemv.h, cuda/gemv.h).
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace grinqh {

// Kernel: has `layout` and `name`.
template <class Kernel>
class GemvTable {
 public:
  void add(Kernel kernel) {
    const Key key{kernel.layout, kernel.name};
    if (!kernels_.emplace(key, std::move(kernel)).second) conflicts_.push_back(key.first + "/" + key.second);
  }
  // In the order of their names.
  std::vector<Kernel> of(std::string_view layout) const {
    std::vector<Kernel> found;
    for (const auto& [key, kernel] : kernels_)
      if (key.first == layout) found.push_back(kernel);
    return found;
  }
  // "layout/name" of those that were added twice: an exception in a static initializer could not say which.
  const std::vector<std::string>& conflicts() const { return conflicts_; }

 private:
  using Key = std::pair<std::string, std::string>;
  std::map<Key, Kernel> kernels_;
  std::vector<std::string> conflicts_;
};

}  // namespace grinqh
