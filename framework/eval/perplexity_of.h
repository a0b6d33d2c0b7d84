// The perplexity of a checkpoint as it is, by a named protocol: what `grinqh eval` prints.
#pragma once

#include <filesystem>
#include <string_view>

#include "core/device.h"
#include "model/model.h"

namespace grinqh {

struct TextPerplexity {
  double perplexity = 0;
  int64_t tokens = 0;  // scored
  int64_t windows = 0;
  double seconds = 0;  // without loading
  // Before that: weights to the device, and on a GPU what its first products cost once (the code of kernels,
  // the choice of algorithms, memory), found out on one block and the scores of the first batch.
  double load_seconds = 0;
};

TextPerplexity perplexity_of(const Model& model, const std::filesystem::path& text, std::string_view protocol,
                             int64_t context, const DeviceChoice& device = {});

}  // namespace grinqh
