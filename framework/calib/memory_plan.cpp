#include "calib/memory_plan.h"

#include "calib/block_collectors.h"
#include "calib/gradients.h"
#include "core/error.h"
#include "core/registry.h"

namespace grinqh {

namespace {

// Statistics of an input that grow with its square, with what adding to them takes: float64 sums and a
// batch's float32 part. Others have some numbers a channel.
bool is_square(const std::string& name) { return name == "second_moment" || name == "input_drift"; }
constexpr int64_t kSquare = 12;
constexpr int64_t kChannel = 4 * 128;

double gib(int64_t bytes) { return static_cast<double>(bytes) / (int64_t{1} << 30); }

}  // namespace

CalibrationMemory calibration_memory(const Model& model, const CalibrationSize& size) {
  const ModelConfig& config = model.config;
  CalibrationMemory memory;
  const bool drift = std::ranges::any_of(
      size.names, [](const auto& name) { return Registry<DriftCollector>::get().contains(name); });
  const int64_t typed =
      2 * config.hidden + 2 * (config.heads + config.kv_heads) * config.head_dim + 2 * config.intermediate;
  const int64_t per_token = 2 * config.hidden * 4 + typed * size.element_bytes;
  int64_t weights = 0, largest = 0;
  for (const BlockWeights& block : model.blocks) {
    int64_t statistics = 0;
    for (const auto& site : inputs_of(block)) {
      const int64_t in = site.front()->weight.cols();
      for (const std::string& name : size.names) {
        if (is_gradient_statistic(name)) continue;
        statistics += is_square(name) ? in * in * kSquare : in * kChannel;
        if (is_square(name)) memory.solving = std::max(memory.solving, in * in * kSquare);
      }
      for (const LinearWeights* layer : site) {
        weights += layer->weight.elements();
        largest = std::max(largest, layer->weight.elements());
      }
    }
    memory.statistics = std::max(memory.statistics, statistics);
  }
  const bool gradients = std::ranges::any_of(size.names, is_gradient_statistic);
  const bool inputs = !std::ranges::all_of(size.names, is_gradient_statistic);
  if (inputs) {
    memory.stream = size.tokens * config.hidden * 4 * (drift ? 2 : 1);
    memory.activations = size.batch_tokens * per_token * 3 / 2;
  }
  if (gradients) {
    // Every block's input, what one block's pass keeps and what comes back through it, and some logits.
    constexpr int64_t kLogitRows = 1024;
    memory.gradients = size.gradient_tokens * (config.layers * config.hidden * 4 + 3 * per_token) +
                       std::min(size.gradient_tokens, kLogitRows) * config.vocab * (4 + size.element_bytes);
    // A float32 gradient of a layer and the sums of all: one a weight, where single weights are looked at.
    if (size.names.contains("fisher_diagonal")) memory.gradients += (weights + largest) * 4;
  }
  return memory;
}

void require_memory(const std::string& model, const CalibrationMemory& needed, const DeviceMemory& memory) {
  if (needed.most() <= memory.free) return;
  if (needed.gradients == needed.most())
    bad_input(
        "{}: the backward pass of calibration does not fit: {:.2f} GiB are needed besides the weights, "
        "{:.2f} of "
        "{:.2f} GiB are free",
        model, gib(needed.gradients), gib(memory.free), gib(memory.total));
  bad_input(
      "{}: calibration does not fit: {:.2f} GiB for the tokens' residual stream, {:.2f} for a batch and "
      "{:.2f} for "
      "statistics are needed besides the weights, {:.2f} of {:.2f} GiB are free",
      model, gib(needed.stream), gib(needed.activations), gib(std::max(needed.statistics, needed.solving)),
      gib(memory.free), gib(memory.total));
}

}  // namespace grinqh
