// Comparison with what transformers and tokenizers computed, from the files beside a checkpoint (DESIGN.md
// section 8): golden.safetensors, tokenizer_cases.json or cases.json, perplexity.json.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/device.h"

namespace grinqh {

struct Comparison {
  std::string what;  // "logits", "greedy_0", "tokenizer"
  bool agrees = false;
  std::string figure;  // "relative error 3.1e-07, allowed 1e-04"
};

// Finds whichever of the files exist in folder or folder/golden and compares them all. BadInput if there is
// none, or if one or the model is malformed. `texts`: where the texts of perplexity.json are looked for
// besides the folder; a perplexity whose text is not there is left out. Logits are compared in the device's
// arithmetic.
std::vector<Comparison> check_conformance(const std::filesystem::path& folder,
                                          const std::filesystem::path& texts,
                                          const DeviceChoice& device = {});

}  // namespace grinqh
