// Llama 1 to 3: one switch for the biases of all four attention projections, one for those of the MLP.
#include "model/architecture.h"

namespace grinqh {

namespace {

const RegisterArchitecture llama("LlamaForCausalLM", [](const JsonObject& json, ModelConfig& config) {
  config.qkv_bias = config.output_bias = json.boolean_or(false, "attention_bias");
  config.mlp_bias = json.boolean_or(false, "mlp_bias");
});

}  // namespace

}  // namespace grinqh
