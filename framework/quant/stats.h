// Statistics of linear layers: plain data under open names, filled by collectors.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/plain_vector.h"
#include "core/tensor.h"
#include "quant/merge_values.h"

namespace grinqh {

// Things by name, made when they are first asked for.
class Derived {
 public:
  template <class T>
  std::shared_ptr<const T> get(const std::string& name, const std::function<T()>& make) {
    const std::lock_guard lock(mutex_);
    std::shared_ptr<const void>& place = all_[name];
    if (!place) place = std::make_shared<const T>(make());
    return std::static_pointer_cast<const T>(place);
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<const void>> all_;
};

struct LayerStats {
  int64_t tokens = 0;
  std::map<std::string, PlainVector<float>, std::less<>> values;  // by collector name
  // Further statistics of the layer, under other names: those of an input that it shares with other layers,
  // those of its gradients.
  std::vector<std::shared_ptr<const LayerStats>> parts = {};
  // Where what is computed from the values is kept for as long as they are: for other layers with this input,
  // and for other methods. Null: nothing is kept; not to be shared by objects with different values.
  std::shared_ptr<Derived> derived = nullptr;

  // BadInput naming the statistic if it was not collected.
  std::span<const float> at(std::string_view name) const { return holder_of(name).values.find(name)->second; }
  bool has(std::string_view name) const { return find(name) != nullptr; }
  // What comes of that statistic alone, by a name that says all that it depends on besides.
  template <class T>
  std::shared_ptr<const T> derive(std::string_view statistic, const std::string& name,
                                  const std::function<T()>& make) const {
    const LayerStats& holder = holder_of(statistic);
    return holder.derived ? holder.derived->get<T>(name, make) : std::make_shared<const T>(make());
  }

 private:
  const LayerStats& holder_of(std::string_view name) const {
    if (const LayerStats* found = find(name)) return *found;
    bad_input("statistic '{}' was not collected for this layer", name);
  }
  const LayerStats* find(std::string_view name) const {
    if (values.contains(name)) return this;
    for (const auto& part : parts)
      if (const LayerStats* found = part->find(name)) return found;
    return nullptr;
  }
};

using CollectorNames = std::set<std::string, std::less<>>;

// Sees the inputs of one linear layer, batch after batch; registered by name like every plugin. The result
// must not depend on how the tokens were cut into batches nor on the number of threads.
class Collector {
 public:
  static constexpr std::string_view kind = "collector";
  virtual ~Collector() = default;
  virtual void observe(ConstActivations x) = 0;  // [tokens, in]
  virtual PlainVector<float> finish() = 0;
  // What finish() gives, for merge_statistics().
  virtual Merge merge() const { return Merge::mean; }
};

// The same for what compares a layer's inputs with those that the float model has for the same tokens.
class DriftCollector {
 public:
  static constexpr std::string_view kind = "collector";
  virtual ~DriftCollector() = default;
  virtual void observe(ConstActivations x, ConstActivations x_float) = 0;  // [tokens, in] both
  virtual PlainVector<float> finish() = 0;
};

}  // namespace grinqh
