#include "calib/calibrate.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "calib/gradients.h"
#include "calib/layer_queue.h"
#include "calib/memory_plan.h"
#include "calib/residual_stream.h"
#include "core/accelerator.h"
#include "core/progress.h"
#include "core/text.h"
#include "core/timed_scope.h"
#include "runtime/backend.h"

namespace grinqh {

namespace {

using Sites = std::vector<std::vector<const LinearWeights*>>;

bool covered(const CalibrationPlan& plan, const std::string& id) {
  return std::ranges::any_of(plan.layers,
                             [&](const std::string& pattern) { return glob_match(pattern, id); });
}

using Selected = std::map<const LayerStats*, std::shared_ptr<const LayerStats>>;

// The named statistics of an object, itself if that is all it has; null if it has none of them.
std::shared_ptr<const LayerStats> select(const std::shared_ptr<const LayerStats>& all,
                                         const CollectorNames& names, Selected& known) {
  if (const auto found = known.find(all.get()); found != known.end()) return found->second;
  auto selected = std::make_shared<LayerStats>();
  selected->tokens = all->tokens;
  for (const auto& [name, values] : all->values)
    if (names.contains(name)) selected->values.emplace(name, values);
  for (const auto& part : all->parts)
    if (auto some = select(part, names, known)) selected->parts.push_back(std::move(some));
  const bool none = selected->values.empty() && selected->parts.empty();
  const bool whole = selected->values.size() == all->values.size() && selected->parts == all->parts;
  return known[all.get()] = none ? nullptr : whole ? all : std::move(selected);
}

// Holds on to the statistics that are kept; layers that share an object go on sharing one.
void keep(const CalibrationStats& stats, const CollectorNames& names, CalibrationStats& kept) {
  Selected known;
  for (const auto& [layer, all] : stats)
    if (auto selected = select(all, names, known)) kept.insert_or_assign(layer, std::move(selected));
}

// Of the float model, whatever the blocks are to see.
CalibrationStats gradients_for(const Transformer& transformer, const Quantizer& quantizer,
                               const CalibrationPlan& plan) {
  CollectorNames names = quantizer.needs();
  names.merge(quantizer.survey_needs());
  names.insert(plan.kept.begin(), plan.kept.end());
  std::erase_if(names, [](const std::string& name) { return !is_gradient_statistic(name); });
  if (names.empty()) return {};
  const int64_t count = std::min(plan.windows.rows, plan.gradient_windows);
  const int64_t context = std::min(plan.windows.cols, plan.gradient_context);
  return stored_gradients(transformer, plan.windows.rows_between(0, count).cols_between(0, context), names,
                          plan.layers, plan.gradient_store);
}

MatrixBuffer<float> float_weight(const LinearWeights& layer) {
  const TimedScope timed("weights to float");
  return to_float(layer.weight);
}

// Calls visit(layer, its statistics) for every covered layer of the sites.
template <class Visit>
void visit_layers(const Sites& sites, const CalibrationPlan& plan, const CalibrationStats& stats,
                  const Visit& visit) {
  static const auto kNothing = std::make_shared<const LayerStats>();
  for (const auto& layers : sites)
    for (const LinearWeights* layer : layers) {
      if (!covered(plan, layer->id)) continue;
      const auto found = stats.find(layer->id);
      visit(*layer, found == stats.end() ? kNothing : found->second);
    }
}

// Quantizes layers beside each other, and beside what the caller does meanwhile.
class QuantizingLayers {
 public:
  QuantizingLayers(const Quantizer& quantizer, Calibrated& result) : quantizer_(quantizer), result_(result) {}

  void add(const LinearWeights& layer, std::shared_ptr<const LayerStats> stats) {
    result_.derived.emplace(layer.id, std::make_shared<Derived>());
    queue_.add([this, &layer, stats = std::move(stats)] { quantize(layer, *stats); });
  }
  void wait() { queue_.wait(); }

 private:
  void quantize(const LinearWeights& layer, const LayerStats& stats) {
    const MatrixBuffer<float> weight = float_weight(layer);
    const auto installed = accelerator();
    const std::shared_ptr<void> held = installed ? installed->hold(weight) : nullptr;
    std::map<std::string, double> notes;
    const TimedScope timed("quantizing");
    auto quantized = quantizer_.quantize({layer.id, weight.view(), stats, &notes});
    const std::lock_guard lock(mutex_);
    result_.model.layers.emplace(layer.id, std::move(quantized));
    if (!notes.empty()) result_.notes.emplace(layer.id, std::move(notes));
  }

  const Quantizer& quantizer_;
  std::mutex mutex_;  // of what comes to be
  Calibrated& result_;
  LayerQueue queue_;  // ends first
};

// Inputs of a block's layers for one batch, as the float model has them.
using FloatInputs = std::map<const LinearWeights*, Tensor>;

// A residual stream that has come as far as some block.
class MovingStream {
 public:
  MovingStream(const Transformer& transformer, Matrix<const int32_t> windows)
      : stream_(transformer, windows) {}

  ResidualStream* operator->() { return &stream_; }
  // Moves on through the block that it stands before.
  void pass(int64_t block, LinearExecutor& linears) {
    for (size_t batch = 0; batch < stream_.batches(); ++batch)
      stream_.run(block, batch, linears, ResidualStream::Output::keep);
    next_ = block + 1;
  }
  void passed(int64_t block) { next_ = block + 1; }
  int64_t next() const { return next_; }

 private:
  ResidualStream stream_;
  int64_t next_ = 0;  // the block that it stands before
};

// The walk over the blocks. The stream carries what blocks see; it is made, and moves, when a statistic is to
// be collected. The float model's stream beside it is only there if a statistic compares the two.
class Walk {
 public:
  Walk(const Transformer& transformer, const CalibrationPlan& plan, int64_t passes)
      : transformer_(transformer),
        plan_(plan),
        progress_("calibrating", plan.windows.rows * plan.windows.cols * transformer.blocks() * passes,
                  "tokens") {}

  // Statistics of the float model's block, from the store as far as it has them. The stream must be the float
  // model's; where something is collected it moves on if `advance`.
  CalibrationStats float_statistics(int64_t block, const CollectorNames& names, bool advance) {
    CalibrationStats stats = plan_.store ? plan_.store->load(block) : CalibrationStats{};
    CollectorNames missing = names;
    if (!stats.empty())
      std::erase_if(missing, [&](const auto& name) { return stats.begin()->second->has(name); });
    if (missing.empty()) return stats;
    for (const std::string& name : plan_.also)
      if (stats.empty() || !stats.begin()->second->has(name)) missing.insert(name);
    const auto linears = transformer_.float_linears();
    while (stream().next() < block) run(stream().next(), *linears);
    const CalibrationStats collected = collect(block, *linears, inputs_of(weights(block)), missing, advance);
    if (plan_.store) plan_.store->save(block, collected);
    add_statistics(collected, stats);
    return stats;
  }

  // Runs the block with `linears` and collects at the sites.
  CalibrationStats collect(int64_t block, LinearExecutor& linears, const Sites& sites,
                           const CollectorNames& names, bool advance) {
    const TimedScope timed("collecting");
    BlockCollectors collectors(transformer_, sites, names);
    const bool drift = collectors.needs_drift();
    for (size_t batch = 0; batch < stream()->batches(); ++batch) {
      FloatInputs float_inputs;
      if (drift) float_inputs = inputs_of_float_model(block, batch, collectors);
      ObservedLinears observed(linears, [&](const LinearWeights& linear, ConstActivations x) {
        collectors.observe(linear, x);
        if (drift && collectors.watches(linear)) {
          const auto x_float = float_inputs.find(&linear);
          collectors.observe_drift(linear, x, x_float->second);
        }
      });
      stream()->run(block, batch, observed,
                    advance ? ResidualStream::Output::keep : ResidualStream::Output::discard);
      progress_.advance(stream()->rows(batch));
    }
    if (advance) stream().passed(block);
    return collectors.finish();
  }

  // Moves the stream on.
  void run(int64_t block, LinearExecutor& linears) {
    const TimedScope timed("moving on");
    stream().pass(block, linears);
    transformer_.synchronize();
    progress_.advance(stream()->tokens());
  }

 private:
  const BlockWeights& weights(int64_t block) const {
    return transformer_.model().blocks[static_cast<size_t>(block)];
  }
  MovingStream& stream() {
    if (!stream_) stream_.emplace(transformer_, plan_.windows);
    return *stream_;
  }

  FloatInputs inputs_of_float_model(int64_t block, size_t batch, const BlockCollectors& collectors) {
    const auto linears = transformer_.float_linears();
    if (!float_stream_) float_stream_.emplace(transformer_, plan_.windows);
    while (float_stream_->next() < block) float_stream_->pass(float_stream_->next(), *linears);
    FloatInputs inputs;
    ObservedLinears observed(*linears, [&](const LinearWeights& linear, ConstActivations x) {
      if (collectors.watches(linear)) inputs.try_emplace(&linear, transformer_.copy_of(x));
    });
    (*float_stream_)->run(block, batch, observed, ResidualStream::Output::discard);
    return inputs;
  }

  const Transformer& transformer_;
  const CalibrationPlan& plan_;
  std::optional<MovingStream> stream_, float_stream_;
  Progress progress_;
};

void survey(const Transformer& transformer, Quantizer& quantizer, const CalibrationPlan& plan,
            const CalibrationStats& gradients) {
  CollectorNames names = quantizer.survey_needs();
  std::erase_if(names, is_gradient_statistic);
  std::optional<Walk> walk;
  if (!names.empty()) walk.emplace(transformer, plan, 1);
  for (int64_t block = 0; block < transformer.blocks(); ++block) {
    CalibrationStats stats = walk ? walk->float_statistics(block, names, true) : CalibrationStats{};
    const Sites sites = inputs_of(transformer.model().blocks[static_cast<size_t>(block)]);
    add_gradients(sites, gradients, stats);
    visit_layers(sites, plan, stats, [&](const LinearWeights& layer, const auto& of_layer) {
      const MatrixBuffer<float> weight = float_weight(layer);
      quantizer.survey({layer.id, weight.view(), *of_layer});
    });
  }
  quantizer.allot();
}

}  // namespace

namespace {

void require_memory(const Transformer& transformer, const Quantizer& quantizer, const CalibrationPlan& plan) {
  const std::optional<DeviceMemory> memory = device_memory(transformer.device());
  if (!memory) return;
  CalibrationSize size;
  size.names = quantizer.needs();
  size.names.merge(quantizer.survey_needs());
  size.names.insert(plan.kept.begin(), plan.kept.end());
  size.names.insert(plan.also.begin(), plan.also.end());
  if (size.names.empty()) return;
  size.tokens = plan.windows.rows * plan.windows.cols;
  size.batch_tokens = std::min(size.tokens, transformer.batch_tokens());
  size.gradient_tokens = std::min(size.tokens, transformer.gradient_tokens());
  size.element_bytes = transformer.device().arithmetic == Arithmetic::float32 ? 4 : 2;
  require_memory(transformer.model().folder.string(), calibration_memory(transformer.model(), size), *memory);
}

}  // namespace

Calibrated calibrate_and_quantize(const Transformer& transformer, Quantizer& quantizer,
                                  const CalibrationPlan& plan) {
  require_memory(transformer, quantizer, plan);
  const CalibrationStats gradients = gradients_for(transformer, quantizer, plan);
  if (quantizer.surveys()) survey(transformer, quantizer, plan, gradients);
  Calibrated result;
  const std::vector<BlockWeights>& blocks = transformer.model().blocks;
  QuantizingLayers layers(quantizer, result);
  const auto quantize = [&](const Sites& sites, CalibrationStats stats) {
    add_gradients(sites, gradients, stats);
    visit_layers(sites, plan, stats,
                 [&](const LinearWeights& layer, const auto& of_layer) { layers.add(layer, of_layer); });
    keep(stats, plan.kept, result.stats);
  };
  CollectorNames names = quantizer.needs();
  names.insert(plan.kept.begin(), plan.kept.end());
  std::erase_if(names, is_gradient_statistic);
  if (names.empty()) {
    for (const BlockWeights& block : blocks) quantize(inputs_of(block), {});
    layers.wait();
    return result;
  }

  const bool propagate = plan.inputs == CalibrationInputs::quantized;
  const bool sequential = propagate && quantizer.sequential_in_block();
  Walk walk(transformer, plan, sequential ? 5 : propagate ? 2 : 1);
  for (size_t i = 0; i < blocks.size(); ++i) {
    const auto block = static_cast<int64_t>(i);
    const Sites sites = inputs_of(blocks[i]);
    if (sequential) {
      for (const auto& site : sites) {
        const auto so_far = transformer.quantized_linears(result.model, nullptr);
        quantize({site}, walk.collect(block, *so_far, {site}, names, false));
        layers.wait();
      }
    } else if (!propagate || i == 0) {
      quantize(sites, walk.float_statistics(block, names, !propagate));
    } else {
      const auto linears = transformer.float_linears();
      quantize(sites, walk.collect(block, *linears, sites, names, false));
    }
    if (propagate) {
      layers.wait();
      const auto quantized = transformer.quantized_linears(result.model, nullptr);
      walk.run(block, *quantized);
    }
  }
  layers.wait();
  return result;
}

}  // namespace grinqh
