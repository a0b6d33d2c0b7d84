// What calibrating and quantizing will take of a device's memory besides the weights: known before the start.
#pragma once

#include <algorithm>
#include <string>

#include "core/device_memory.h"
#include "model/model.h"
#include "quant/stats.h"

namespace grinqh {

struct CalibrationSize {
  int64_t tokens = 0;           // of all windows
  int64_t batch_tokens = 0;     // that pass a block together
  int64_t gradient_tokens = 0;  // the same in the backward pass
  CollectorNames names;         // that are collected
  int64_t element_bytes = 2;    // of activations
};

// Bytes, of which the walk over the blocks and the backward pass come one after the other.
struct CalibrationMemory {
  int64_t stream =
      0;  // the residual stream of all tokens, twice where inputs are compared with the float model's
  int64_t statistics = 0;   // of one block
  int64_t activations = 0;  // of a batch
  int64_t solving = 0;      // factors of the largest second moments
  int64_t gradients = 0;    // the whole backward pass
  int64_t most() const { return std::max(stream + activations + std::max(statistics, solving), gradients); }
};
CalibrationMemory calibration_memory(const Model& model, const CalibrationSize& size);

// BadInput saying what is needed and what there is, if that is less.
void require_memory(const std::string& model, const CalibrationMemory& needed, const DeviceMemory& memory);

}  // namespace grinqh
