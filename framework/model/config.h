// What config.json of a Hugging Face checkpoint says, in the styles of transformers 4 and 5.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace grinqh {

// Rotary position embedding. Llama 3 scaling: Llama 3.1 model card / transformers `rope_type: llama3`.
struct RopeConfig {
  double theta = 10000.0;
  bool llama3_scaling = false;
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  double original_context = 8192;
};

struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM"
  int64_t vocab = 0;
  int64_t hidden = 0;
  int64_t intermediate = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t max_context = 0;
  double norm_eps = 1e-6;
  RopeConfig rope;
  bool tied_head = false;  // the embedding serves as output head
  bool qkv_bias = false;
  bool output_bias = false;  // of the attention's output projection
  bool mlp_bias = false;
  bool qk_norm = false;    // RMSNorm over head_dim on q and k before RoPE (Qwen3)
  int64_t bos_token = -1;  // -1: none
  std::vector<int64_t> eos_tokens;
};

// Reads folder/config.json (and eos ids of generation_config.json if there is one). BadInput names file, key,
// what was found and what is allowed; sizes are checked against each other.
ModelConfig read_model_config(const std::filesystem::path& folder);

}  // namespace grinqh
