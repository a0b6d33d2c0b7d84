// Statistics of linear layers: plain data under open names, filled by collectors.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/tensor.h"
#include "quant/merge_values.h"

namespace grinqh {

struct LayerStats {
  int64_t tokens = 0;
  std::map<std::string, std::vector<float>, std::less<>> values;  // by collector name
  // Further statistics of the layer, under other names: those of an input that it shares with other layers,
  // those of its gradients.
  std::vector<std::shared_ptr<const LayerStats>> parts = {};

  // BadInput naming the statistic if it was not collected.
  std::span<const float> at(std::string_view name) const {
    if (const std::vector<float>* found = find(name)) return *found;
    bad_input("statistic '{}' was not collected for this layer", name);
  }

 private:
  const std::vector<float>* find(std::string_view name) const {
    if (const auto it = values.find(name); it != values.end()) return &it->second;
    for (const auto& part : parts)
      if (const std::vector<float>* found = part->find(name)) return found;
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
  virtual std::vector<float> finish() = 0;
  // What finish() gives, for merge_statistics().
  virtual Merge merge() const { return Merge::mean; }
};

// The same for what compares a layer's inputs with those that the float model has for the same tokens.
class DriftCollector {
 public:
  static constexpr std::string_view kind = "collector";
  virtual ~DriftCollector() = default;
  virtual void observe(ConstActivations x, ConstActivations x_float) = 0;  // [tokens, in] both
  virtual std::vector<float> finish() = 0;
};

}  // namespace grinqh
