// One decode step of a model as launches on a stream: what a graph is captured from. Sequences, their
// positions and their tokens are read from device memory and moved on there.
#pragma once

#include <array>
#include <functional>
#include <vector>

#include "cuda/sample_step.h"
#include "cuda/step_products.h"
#include "cuda/transformer.h"

namespace grinqh::cuda {

// What the launches up to a mark, from the one before it, were for.
enum class StepPart : uint8_t { products, attention, head, other };

class StepModel {
 public:
  // Layers of a block in the order in which `layer` is asked for them, and readings and counts come.
  static constexpr int64_t kBlockLayers = 7;
  using LayerOf = std::function<StepLayer(const LinearWeights&)>;
  // packed_head: what head.packed points to, if anything.
  StepModel(const DeviceTransformer& transformer, const LayerOf& layer, const StepLayer& head,
            std::unique_ptr<DeviceWeights> packed_head, GemvStore& kernels, GemvStore& head_kernels,
            const DecodePlan& plan);

  KvCache& cache() { return cache_; }
  int64_t layers() const { return kBlockLayers * transformer_.blocks(); }
  const StepLayer& layer(int64_t index) const;
  // Whether no product is the library's.
  bool streams() const;

  // The state that the next step begins with; x follows from the tokens.
  struct Sequences {
    std::vector<int32_t> tokens, positions, steps;
    std::vector<uint64_t> chance;
  };
  void set(const Sequences& sequences);
  Sequences get() const;

  struct Run {
    Matrix<const Level> readings;  // [sequences, layers]
    float temperature = 0;
    bool counts = false;
    int32_t *tokens = nullptr, *levels = nullptr;  // histories that the host sees: SampleStep, publish_counts
    int32_t ring = 1;
    std::function<void(StepPart)> mark;
  };
  void enqueue(const Run& run);
  // counts of a step: [layers, sequences, 17]
  int64_t count_size() const { return layers() * plan_.sequences * (kMaxLevel + 1); }
  View logits() const { return logits_.view(); }

 private:
  struct Block {
    StepProducts qkv, o, gate_up, down;
    const StepProducts& site(size_t index) const {
      return index == 0 ? qkv : index == 1 ? o : index == 2 ? gate_up : down;
    }
  };
  void attend(int64_t block);

  const DeviceTransformer& transformer_;
  DecodePlan plan_;
  KvCache cache_;
  ProductScratch scratch_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::unique_ptr<DeviceWeights> packed_head_;
  std::unique_ptr<StepProducts> head_;
  OwnedMatrix x_, qkv_, mixed_, gate_up_, logits_;
  Array<int32_t> tokens_, positions_, steps_, counts_;
  Array<uint64_t> chance_;
  Bytes sample_scratch_;
  int attention_parts_ = 1;
};

}  // namespace grinqh::cuda
