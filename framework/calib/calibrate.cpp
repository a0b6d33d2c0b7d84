#include "calib/calibrate.h"

#include <algorithm>
#include <map>
#include <optional>

#include "calib/residual_stream.h"
#include "core/progress.h"
#include "core/text.h"

namespace grinqh {

namespace {

using Sites = std::vector<std::vector<const LinearWeights*>>;

bool covered(const CalibrationPlan& plan, const std::string& id) {
  return std::ranges::any_of(plan.layers,
                             [&](const std::string& pattern) { return glob_match(pattern, id); });
}

// Moves the statistics that are kept over; layers that share an object go on sharing one.
void keep(const CalibrationStats& stats, const CollectorNames& names, CalibrationStats& kept) {
  if (names.empty()) return;
  std::map<const LayerStats*, std::shared_ptr<const LayerStats>> copies;
  for (const auto& [layer, all] : stats) {
    std::shared_ptr<const LayerStats>& copy = copies[all.get()];
    if (!copy) {
      auto selected = std::make_shared<LayerStats>();
      selected->tokens = all->tokens;
      for (const std::string& name : names) selected->values.emplace(name, all->values.at(name));
      copy = std::move(selected);
    }
    kept.insert_or_assign(layer, copy);
  }
}

// Calls visit(task) for every covered layer of the sites.
template <class Visit>
void visit_layers(const Sites& sites, const CalibrationPlan& plan, const CalibrationStats& stats,
                  const Visit& visit) {
  static const LayerStats kNothing;
  for (const auto& layers : sites)
    for (const LinearWeights* layer : layers) {
      if (!covered(plan, layer->id)) continue;
      const auto found = stats.find(layer->id);
      const MatrixBuffer<float> weight = to_float(layer->weight);
      visit(LinearTask{layer->id, weight.view(), found == stats.end() ? kNothing : *found->second});
    }
}

// Inputs of a block's layers for one batch, as the float model has them.
using FloatInputs = std::map<const LinearWeights*, MatrixBuffer<float>>;

// The walk over the blocks. The stream carries what blocks see; the float model's stream beside it is only
// there if a statistic compares the two.
class Walk {
 public:
  Walk(const Transformer& transformer, const CalibrationPlan& plan, int64_t passes)
      : transformer_(transformer),
        plan_(plan),
        stream_(transformer, plan.windows),
        progress_("calibrating", stream_.tokens() * transformer.blocks() * passes, "tokens") {}

  // Statistics of the float model's block, from the store as far as it has them. The stream must be the float
  // model's; it moves on if `advance`.
  CalibrationStats float_statistics(int64_t block, const CollectorNames& names, bool advance) {
    CalibrationStats stats = plan_.store ? plan_.store->load(block) : CalibrationStats{};
    CollectorNames missing = names;
    if (!stats.empty())
      for (const auto& [name, values] : stats.begin()->second->values) missing.erase(name);
    FloatLinears linears;
    if (!missing.empty()) {
      CalibrationStats collected = collect(block, linears, inputs_of(weights(block)), missing, advance);
      if (plan_.store) plan_.store->save(block, collected);
      add_statistics(collected, stats);
    } else if (advance) {
      run(block, linears);
    }
    return stats;
  }

  // Runs the block with `linears` and collects at the sites.
  CalibrationStats collect(int64_t block, LinearExecutor& linears, const Sites& sites,
                           const CollectorNames& names, bool advance) {
    BlockCollectors collectors(sites, names);
    const bool drift = collectors.needs_drift();
    if (drift && !float_stream_) float_stream_.emplace(transformer_, plan_.windows);
    for (size_t batch = 0; batch < stream_.batches(); ++batch) {
      FloatInputs float_inputs;
      if (drift) float_inputs = inputs_of_float_model(block, batch, collectors);
      ObservedLinears observed(linears, [&](const LinearWeights& linear, Matrix<const float> x) {
        collectors.observe(linear, x);
        if (drift && collectors.watches(linear)) {
          const auto x_float = float_inputs.find(&linear);
          collectors.observe_drift(linear, x, x_float->second);
        }
      });
      stream_.run(block, batch, observed,
                  advance ? ResidualStream::Output::keep : ResidualStream::Output::discard);
      progress_.advance(stream_.rows(batch));
    }
    return collectors.finish();
  }

  // Moves the stream on.
  void run(int64_t block, LinearExecutor& linears) {
    for (size_t batch = 0; batch < stream_.batches(); ++batch) {
      stream_.run(block, batch, linears, ResidualStream::Output::keep);
      progress_.advance(stream_.rows(batch));
    }
  }

  // After the last use of a block.
  void leave(int64_t block) {
    if (!float_stream_) return;
    FloatLinears linears;
    for (size_t batch = 0; batch < float_stream_->batches(); ++batch)
      float_stream_->run(block, batch, linears, ResidualStream::Output::keep);
  }

 private:
  const BlockWeights& weights(int64_t block) const {
    return transformer_.model().blocks[static_cast<size_t>(block)];
  }

  FloatInputs inputs_of_float_model(int64_t block, size_t batch, const BlockCollectors& collectors) {
    FloatInputs inputs;
    FloatLinears linears;
    ObservedLinears observed(linears, [&](const LinearWeights& linear, Matrix<const float> x) {
      if (!collectors.watches(linear)) return;
      MatrixBuffer<float>& copy = inputs.try_emplace(&linear, x.rows, x.cols).first->second;
      for (int64_t t = 0; t < x.rows; ++t) std::copy_n(x.row(t), x.cols, copy.row(t));
    });
    float_stream_->run(block, batch, observed, ResidualStream::Output::discard);
    return inputs;
  }

  const Transformer& transformer_;
  const CalibrationPlan& plan_;
  ResidualStream stream_;
  std::optional<ResidualStream> float_stream_;
  Progress progress_;
};

void survey(const Transformer& transformer, Quantizer& quantizer, const CalibrationPlan& plan) {
  const CollectorNames names = quantizer.survey_needs();
  std::optional<Walk> walk;
  if (!names.empty()) walk.emplace(transformer, plan, 1);
  for (int64_t block = 0; block < transformer.blocks(); ++block) {
    const CalibrationStats stats = walk ? walk->float_statistics(block, names, true) : CalibrationStats{};
    visit_layers(inputs_of(transformer.model().blocks[static_cast<size_t>(block)]), plan, stats,
                 [&](const LinearTask& task) { quantizer.survey(task); });
  }
  quantizer.allot();
}

}  // namespace

Calibrated calibrate_and_quantize(const Transformer& transformer, Quantizer& quantizer,
                                  const CalibrationPlan& plan) {
  if (quantizer.surveys()) survey(transformer, quantizer, plan);
  Calibrated result;
  const std::vector<BlockWeights>& blocks = transformer.model().blocks;
  const auto quantize = [&](const Sites& sites, const CalibrationStats& stats) {
    visit_layers(sites, plan, stats, [&](const LinearTask& task) {
      result.model.layers.emplace(task.id, quantizer.quantize(task));
    });
    keep(stats, plan.kept, result.stats);
  };
  CollectorNames names = quantizer.needs();
  names.insert(plan.kept.begin(), plan.kept.end());
  if (names.empty()) {
    for (const BlockWeights& block : blocks) quantize(inputs_of(block), {});
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
        QuantizedLinears so_far(result.model, nullptr);
        quantize({site}, walk.collect(block, so_far, {site}, names, false));
      }
    } else if (!propagate || i == 0) {
      quantize(sites, walk.float_statistics(block, names, !propagate));
    } else {
      FloatLinears linears;
      quantize(sites, walk.collect(block, linears, sites, names, false));
    }
    if (propagate) {
      QuantizedLinears quantized(result.model, nullptr);
      walk.run(block, quantized);
    }
    walk.leave(block);
  }
  return result;
}

}  // namespace grinqh
