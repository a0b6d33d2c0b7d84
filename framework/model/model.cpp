#include "model/model.h"

#include "core/digest.h"
#include "core/error.h"
#include "model/synthetic.h"

namespace grinqh {

namespace {

// All that the outputs depend on, in a form that is the same for every style of config.json.
std::string fingerprint(const ModelConfig& c) {
  return fmt::format(
      "{} vocab {} hidden {} intermediate {} layers {} heads {}/{} x {} context {} eps {} theta {} "
      "llama3 {} {} {} {} {} tied {} bias {} {} {} qk_norm {} bos {} eos {}",
      c.architecture, c.vocab, c.hidden, c.intermediate, c.layers, c.heads, c.kv_heads, c.head_dim,
      c.max_context, c.norm_eps, c.rope.theta, c.rope.llama3_scaling, c.rope.factor, c.rope.low_freq_factor,
      c.rope.high_freq_factor, c.rope.original_context, c.tied_head, c.qkv_bias, c.output_bias, c.mlp_bias,
      c.qk_norm, c.bos_token, fmt::join(c.eos_tokens, ","));
}

LinearWeights load_linear(const Checkpoint& checkpoint, std::string id, int64_t out, int64_t in, bool bias) {
  LinearWeights linear;
  linear.weight = checkpoint.at(id + ".weight", {out, in});
  if (bias) linear.bias = checkpoint.at(id + ".bias", {out});
  linear.id = std::move(id);
  return linear;
}

BlockWeights load_block(const Checkpoint& checkpoint, const ModelConfig& config, int64_t index) {
  const std::string block = fmt::format("model.layers.{}.", index);
  const int64_t hidden = config.hidden;
  const int64_t q_width = config.heads * config.head_dim;
  const int64_t kv_width = config.kv_heads * config.head_dim;
  const auto linear = [&](const char* name, int64_t out, int64_t in, bool bias) {
    return load_linear(checkpoint, block + name, out, in, bias);
  };
  BlockWeights weights;
  weights.attention_norm = checkpoint.at(block + "input_layernorm.weight", {hidden});
  weights.mlp_norm = checkpoint.at(block + "post_attention_layernorm.weight", {hidden});
  if (config.qk_norm) {
    weights.q_norm = checkpoint.at(block + "self_attn.q_norm.weight", {config.head_dim});
    weights.k_norm = checkpoint.at(block + "self_attn.k_norm.weight", {config.head_dim});
  }
  weights.q = linear("self_attn.q_proj", q_width, hidden, config.qkv_bias);
  weights.k = linear("self_attn.k_proj", kv_width, hidden, config.qkv_bias);
  weights.v = linear("self_attn.v_proj", kv_width, hidden, config.qkv_bias);
  weights.o = linear("self_attn.o_proj", hidden, q_width, config.output_bias);
  weights.gate = linear("mlp.gate_proj", config.intermediate, hidden, config.mlp_bias);
  weights.up = linear("mlp.up_proj", config.intermediate, hidden, config.mlp_bias);
  weights.down = linear("mlp.down_proj", hidden, config.intermediate, config.mlp_bias);
  return weights;
}

}  // namespace

std::string Model::name() const {
  // "models/llama/" and "." have no last component as they stand.
  const std::filesystem::path full = std::filesystem::absolute(folder).lexically_normal();
  return (full.has_filename() ? full : full.parent_path()).filename().string();
}

Model load_model(const std::filesystem::path& folder) {
  if (is_preset(folder.string()) && !std::filesystem::exists(folder)) return make_preset(folder.string());
  Model model;
  model.folder = folder;
  model.config = read_model_config(folder);
  const ModelConfig& config = model.config;
  model.checkpoint = std::make_shared<const Checkpoint>(folder);
  const Checkpoint& checkpoint = *model.checkpoint;
  model.embedding = checkpoint.at("model.embed_tokens.weight", {config.vocab, config.hidden});
  model.final_norm = checkpoint.at("model.norm.weight", {config.hidden});
  model.head =
      config.tied_head ? model.embedding : checkpoint.at("lm_head.weight", {config.vocab, config.hidden});
  for (int64_t i = 0; i < config.layers; ++i) model.blocks.push_back(load_block(checkpoint, config, i));
  model.digest = Digest().add_field(fingerprint(config)).add_field(checkpoint.digest()).hex();
  return model;
}

}  // namespace grinqh
