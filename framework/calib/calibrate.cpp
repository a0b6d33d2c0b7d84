#include "calib/calibrate.h"

#include <algorithm>
#include <cmath>

#include "calib/gradients.h"
#include "core/progress.h"
#include "core/registry.h"
#include "core/text.h"

namespace grinqh {

namespace {

constexpr int64_t kBatchTokens = 2048;

bool covered(const CalibrationPlan& plan, const std::string& id) {
  return std::ranges::any_of(plan.layers,
                             [&](const std::string& pattern) { return glob_match(pattern, id); });
}

// Collectors of the inputs of one block, found by the first layer that sees them.
class BlockCollectors {
 public:
  BlockCollectors(const BlockWeights& block, const CollectorNames& names) {
    for (const auto& layers : inputs_of(block)) {
      Site& site = sites_.emplace_back();
      site.layers = layers;
      for (const std::string& name : names)
        site.collectors.emplace(name, Registry<Collector>::get().make(name));
    }
  }

  void observe(const LinearWeights& linear, Matrix<const float> x) {
    for (Site& site : sites_)
      if (site.layers.front() == &linear) {
        site.tokens += x.rows;
        for (auto& [name, collector] : site.collectors) collector->observe(x);
      }
  }

  CalibrationStats finish() {
    CalibrationStats stats;
    for (Site& site : sites_) {
      auto layer_stats = std::make_shared<LayerStats>();
      layer_stats->tokens = site.tokens;
      for (auto& [name, collector] : site.collectors) {
        std::vector<float> values = collector->finish();
        if (!std::ranges::all_of(values, [](float value) { return std::isfinite(value); }))
          fail("{}: statistic '{}' is not finite", site.layers.front()->id, name);
        layer_stats->values.emplace(name, std::move(values));
      }
      for (const LinearWeights* layer : site.layers) stats.insert_or_assign(layer->id, layer_stats);
    }
    return stats;
  }

 private:
  struct Site {
    std::vector<const LinearWeights*> layers;
    std::map<std::string, std::unique_ptr<Collector>, std::less<>> collectors;
    int64_t tokens = 0;
  };
  std::vector<Site> sites_;
};

// The residual stream of all calibration tokens, advanced block by block. float32 [tokens, hidden].
class ResidualStream {
 public:
  ResidualStream(const Transformer& transformer, Matrix<const int32_t> windows)
      : transformer_(transformer),
        context_(windows.cols),
        x_(windows.rows * windows.cols, transformer.hidden()) {
    const int64_t step = std::max<int64_t>(1, kBatchTokens / windows.cols);
    for (int64_t w = 0; w < windows.rows; w += step) {
      const int64_t end = std::min(w + step, windows.rows);
      batches_.push_back(Batch::of_windows(windows.rows_between(w, end), windows.cols));
      const MatrixBuffer<float> embedded = transformer.embed(batches_.back());
      std::copy_n(embedded.data(), embedded.size(), x_.row(w * context_));
    }
  }

  int64_t tokens() const { return x_.rows(); }

  // Runs a block over all windows; with `keep` its output replaces the stream.
  void run(int64_t block, LinearExecutor& linears, bool keep, Progress& progress) {
    int64_t row = 0;
    for (const Batch& batch : batches_) {
      const Matrix<float> rows = x_.view().rows_between(row, row + batch.rows());
      row += batch.rows();
      linears.begin_batch(batch.steps);
      if (keep) {
        transformer_.run_block(block, batch, rows, linears, nullptr);
      } else {
        MatrixBuffer<float> copy(rows.rows, rows.cols);
        std::copy_n(rows.data, copy.size(), copy.data());
        transformer_.run_block(block, batch, copy, linears, nullptr);
      }
      progress.advance(batch.rows());
    }
  }

 private:
  const Transformer& transformer_;
  int64_t context_;
  MatrixBuffer<float> x_;
  std::vector<Batch> batches_;
};

void quantize_block(const BlockWeights& block, const Quantizer& quantizer, const CalibrationPlan& plan,
                    const CalibrationStats& stats, QuantizedModel& model) {
  static const LayerStats kNothing;
  for (const auto& layers : inputs_of(block))
    for (const LinearWeights* layer : layers) {
      if (!covered(plan, layer->id)) continue;
      const auto found = stats.find(layer->id);
      const MatrixBuffer<float> weight = to_float(layer->weight);
      model.layers.emplace(layer->id, quantizer.quantize({layer->id, weight.view(),
                                                          found == stats.end() ? kNothing : *found->second}));
    }
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
CalibrationStats gradients_for(const Transformer& transformer, const CalibrationPlan& plan,
                               const CollectorNames& names) {
  if (names.empty()) return {};
  const int64_t count = std::min(plan.windows.rows, plan.gradient_windows);
  const int64_t context = std::min(plan.windows.cols, plan.gradient_context);
  return collect_gradients(transformer, plan.windows.rows_between(0, count).cols_between(0, context), names,
                           plan.layers);
}

}  // namespace

std::vector<std::vector<const LinearWeights*>> inputs_of(const BlockWeights& block) {
  return {{&block.q, &block.k, &block.v}, {&block.o}, {&block.gate, &block.up}, {&block.down}};
}

Calibrated calibrate_and_quantize(const Transformer& transformer, const Quantizer& quantizer,
                                  const CalibrationPlan& plan) {
  Calibrated result;
  const std::vector<BlockWeights>& blocks = transformer.model().blocks;
  CollectorNames collectors = quantizer.needs();
  collectors.insert(plan.kept.begin(), plan.kept.end());
  const CollectorNames of_gradients = gradient_names(collectors);
  const CalibrationStats gradients = gradients_for(transformer, plan, of_gradients);
  for (const std::string& name : of_gradients) collectors.erase(name);
  if (collectors.empty()) {
    for (const BlockWeights& block : blocks) quantize_block(block, quantizer, plan, gradients, result.model);
    keep(gradients, plan.kept, result.stats);
    return result;
  }

  ResidualStream stream(transformer, plan.windows);
  const bool propagate = plan.inputs == CalibrationInputs::quantized;
  Progress progress("calibrating", stream.tokens() * transformer.blocks() * (propagate ? 2 : 1), "tokens");
  for (size_t i = 0; i < blocks.size(); ++i) {
    const auto block = static_cast<int64_t>(i);
    BlockCollectors block_collectors(blocks[i], collectors);
    FloatLinears linears;
    ObservedLinears observed(linears, [&](const LinearWeights& linear, Matrix<const float> x) {
      block_collectors.observe(linear, x);
    });
    stream.run(block, observed, !propagate, progress);
    CalibrationStats stats = block_collectors.finish();
    add_gradients(gradients, stats);
    quantize_block(blocks[i], quantizer, plan, stats, result.model);
    keep(stats, plan.kept, result.stats);
    if (propagate) {
      QuantizedLinears quantized(result.model, nullptr);
      stream.run(block, quantized, true, progress);
    }
  }
  return result;
}

}  // namespace grinqh
