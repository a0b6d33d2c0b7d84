// Models of published shapes with seeded random weights, for measuring speed and memory without a download:
// a preset's name stands wherever a model folder does.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/model.h"

namespace grinqh {

// "llama-3.1-8b", "llama-3.2-1b", "qwen3-8b", "qwen3-0.6b".
std::vector<std::string> preset_names();
bool is_preset(std::string_view name);

// The preset's configuration and weights in bfloat16: N(0, 1 / in) for linear layers, those that write to the
// residual stream smaller by sqrt(2 layers), so that the stream keeps its size; norms' weights vary by
// channel, as trained ones do. The same on every machine. BadInput for an unknown name.
Model make_preset(std::string_view name);

// The same of any configuration, with `layers` blocks if it is above 0.
Model make_synthetic(ModelConfig config, const std::string& name);

// What stands for a tokenizer: every four bytes of a text are a token, spread evenly over the vocabulary.
std::vector<int32_t> synthetic_tokens(std::string_view text, int64_t vocab);

}  // namespace grinqh
