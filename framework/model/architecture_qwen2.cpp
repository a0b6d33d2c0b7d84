// Qwen2 and Qwen2.5: q, k and v always have a bias, no other layer has one.
#include "model/architecture.h"

namespace grinqh {

namespace {

const RegisterArchitecture qwen2("Qwen2ForCausalLM",
                                 [](const JsonObject&, ModelConfig& config) { config.qkv_bias = true; });

}  // namespace

}  // namespace grinqh
