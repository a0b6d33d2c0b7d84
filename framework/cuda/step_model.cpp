#include "cuda/step_model.h"

#include <algorithm>

#include "cuda/device_properties.h"
#include "cuda/input_levels.h"
#include "cuda/ops.h"
#include "cuda/step_attention.h"

namespace grinqh::cuda {

StepModel::StepModel(const DeviceTransformer& transformer, const LayerOf& layer, const StepLayer& head,
                     std::unique_ptr<DeviceWeights> packed_head, GemvStore& kernels, GemvStore& head_kernels,
                     const DecodePlan& plan)
    : transformer_(transformer),
      plan_(plan),
      cache_(transformer.make_cache(plan.sequences, plan.capacity)),
      packed_head_(std::move(packed_head)) {
  const Context& context = transformer.context();
  const int64_t sequences = plan.sequences;
  for (const BlockWeights& weights : transformer.model().blocks) {
    const auto products = [&](std::initializer_list<const LinearWeights*> linears) {
      std::vector<StepLayer> layers;
      for (const LinearWeights* linear : linears) layers.push_back(layer(*linear));
      return StepProducts(context, std::move(layers), sequences, scratch_, kernels);
    };
    blocks_.push_back(std::make_unique<Block>(products({&weights.q, &weights.k, &weights.v}),
                                              products({&weights.o}), products({&weights.gate, &weights.up}),
                                              products({&weights.down})));
  }
  head_ = std::make_unique<StepProducts>(context, std::vector{head}, sequences, scratch_, head_kernels);

  const AttentionShape shape = transformer.shape();
  const Type type = context.type();
  x_ = OwnedMatrix(context, sequences, transformer.hidden(), Type::f32);
  qkv_ = OwnedMatrix(context, sequences, (shape.heads + 2 * shape.kv_heads) * shape.head_dim, Type::f32);
  mixed_ = OwnedMatrix(context, sequences, shape.heads * shape.head_dim, type);
  gate_up_ = OwnedMatrix(context, sequences, 2 * transformer.model().config.intermediate, type);
  logits_ = OwnedMatrix(context, sequences, transformer.vocab(), Type::f32);
  tokens_ = context.array<int32_t>(sequences);
  positions_ = context.array<int32_t>(sequences);
  steps_ = context.array<int32_t>(sequences);
  chance_ = context.array<uint64_t>(sequences);
  counts_ = context.array<int32_t>(count_size());
  fill_zero(counts_.data(), count_size() * static_cast<int64_t>(sizeof(int32_t)), context.stream());
  sample_scratch_ = context.bytes(cuda::sample_scratch(sequences));
  fill_zero(sample_scratch_.data(), sample_scratch_.size(), context.stream());
  attention_parts_ = attention_parts(shape, sequences, plan.capacity,
                                     device_properties(context.choice().index).multiprocessors);
}

const StepLayer& StepModel::layer(int64_t index) const {
  const Block& block = *blocks_[static_cast<size_t>(index / kBlockLayers)];
  auto rest = static_cast<size_t>(index % kBlockLayers);
  size_t site = 0;
  while (rest >= block.site(site).layers().size()) rest -= block.site(site++).layers().size();
  return block.site(site).layers()[rest];
}

bool StepModel::streams() const {
  return head_->streams() && std::ranges::all_of(blocks_, [](const auto& block) {
           return block->qkv.streams() && block->o.streams() && block->gate_up.streams() &&
                  block->down.streams();
         });
}

void StepModel::set(const Sequences& sequences) {
  const Context& context = transformer_.context();
  const Stream stream = context.stream();
  const auto put = [&](const auto& values, const auto& array) {
    to_device(values.data(), array.data(), static_cast<int64_t>(values.size() * sizeof(values[0])), stream);
  };
  put(sequences.tokens, tokens_);
  put(sequences.positions, positions_);
  put(sequences.steps, steps_);
  put(sequences.chance, chance_);
  cuda::embed(tokens_.data(), transformer_.weights().embedding(), x_.view(), stream);
}

StepModel::Sequences StepModel::get() const {
  const auto count = static_cast<size_t>(plan_.sequences);
  Sequences sequences{std::vector<int32_t>(count), std::vector<int32_t>(count), std::vector<int32_t>(count),
                      std::vector<uint64_t>(count)};
  const auto fetch = [&](const auto& array, auto& values) {
    to_host(array.data(), values.data(), static_cast<int64_t>(values.size() * sizeof(values[0])),
            transformer_.context().stream());
  };
  fetch(tokens_, sequences.tokens);
  fetch(positions_, sequences.positions);
  fetch(steps_, sequences.steps);
  fetch(chance_, sequences.chance);
  return sequences;
}

void StepModel::attend(int64_t block) {
  const Activations keys = cache_.keys(block, 0), values = cache_.values(block, 0);
  const DeviceTransformer::Norms& norms = transformer_.device_norms(block);
  StepAttention task;
  task.shape = transformer_.shape();
  task.qkv = qkv_.view();
  task.q_norm = norms.q.data();
  task.k_norm = norms.k.data();
  task.epsilon = transformer_.eps();
  task.frequencies = transformer_.rope_frequencies();
  task.positions = positions_.data();
  task.keys = keys.data;
  task.values = values.data;
  task.row_stride = keys.stride;
  task.sequence_stride = 2 * cache_.capacity() * keys.stride;  // keys and values take turns (runtime/batch.h)
  task.cache_type = view(keys).type;
  task.out = mixed_.view();
  step_attention(task, attention_parts_, transformer_.context().stream());
}

void StepModel::enqueue(const Run& run) {
  const auto mark = [&](StepPart part) {
    if (run.mark) run.mark(part);
  };
  const auto normalized = [&](const Array<float>& norm) {
    return GemvInput{x_.view(), GemvInput::Form::rms_norm, norm.data(), transformer_.eps()};
  };
  int64_t first = 0;
  const auto multiply = [&](StepProducts& products, const GemvInput& input, const GemvOutput& output) {
    const int64_t end = first + std::ssize(products.layers());
    products.run(input, run.readings.cols_between(first, end), output,
                 run.counts ? counts_.data() + first * plan_.sequences * (kMaxLevel + 1) : nullptr);
    first = end;
    mark(StepPart::products);
  };
  for (int64_t b = 0; b < transformer_.blocks(); ++b) {
    Block& block = *blocks_[static_cast<size_t>(b)];
    const DeviceTransformer::Norms& norms = transformer_.device_norms(b);
    multiply(block.qkv, normalized(norms.attention), {qkv_.view()});
    attend(b);
    mark(StepPart::attention);
    GemvInput mixed{mixed_.view()};
    mixed.unevenly_made = true;  // a few heads' blocks
    multiply(block.o, mixed, {x_.view(), true});
    multiply(block.gate_up, normalized(norms.mlp), {gate_up_.view()});
    multiply(block.down, {gate_up_.view(), GemvInput::Form::swiglu}, {x_.view(), true});
  }
  const std::vector<Level> full(static_cast<size_t>(plan_.sequences),
                                plan_.head ? plan_.head->full_level() : kFullLevel);
  head_->run(
      {x_.view(), GemvInput::Form::rms_norm, transformer_.final_norm_weights_on_device(), transformer_.eps()},
      {full.data(), plan_.sequences, 1}, {logits_.view()}, nullptr);
  mark(StepPart::head);
  const Stream stream = transformer_.context().stream();
  if (run.counts) publish_counts(counts_.data(), count_size(), steps_.data(), run.levels, run.ring, stream);
  SampleStep sample;
  sample.logits = logits_.view();
  sample.temperature = run.temperature;
  sample.state = {tokens_.data(), positions_.data(), steps_.data(), chance_.data()};
  sample.embedding = transformer_.weights().embedding();
  sample.x = x_.view();
  sample.history = run.tokens;
  sample.ring = run.ring;
  sample.scratch = sample_scratch_.data();
  sample_step(sample, stream);
  mark(StepPart::other);
}

}  // namespace grinqh::cuda
