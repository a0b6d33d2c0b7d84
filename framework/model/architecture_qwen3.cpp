// Qwen3: heads of a width of their own, with q and k normalized a head.
#include "model/architecture.h"

namespace grinqh {

namespace {

const RegisterArchitecture qwen3("Qwen3ForCausalLM", [](const JsonObject& json, ModelConfig& config) {
  // The common default, hidden_size / num_attention_heads, is not this architecture's.
  if (!json.has("head_dim")) json.refuse("head_dim", "an even integer (Qwen3 has no default)");
  config.qkv_bias = config.output_bias = json.boolean_or(false, "attention_bias");
  config.qk_norm = true;
});

}  // namespace

}  // namespace grinqh
