#include "model/config.h"

#include <algorithm>

#include "core/error.h"
#include "core/text.h"
#include "model/architecture.h"
#include "model/json_reader.h"

namespace grinqh {

namespace {

// Far above any model, and so low that no product of a few sizes overflows.
constexpr IntegerRange kVocab{1, 1 << 24};
constexpr IntegerRange kWidth{1, 1 << 20};
constexpr IntegerRange kLayers{1, 1 << 12};
constexpr IntegerRange kHeads{1, 1 << 12};
constexpr IntegerRange kHeadDim{2, 1 << 12};
constexpr IntegerRange kContext{1, 1 << 24};
constexpr RealRange kPositive{1e-6, 1e6};

std::string architecture_name(const JsonObject& json) {
  const std::vector<std::string> names = json.texts("architectures");
  if (names.empty()) json.refuse("architectures", "the name of a class");
  if (architectures().contains(names[0])) return names[0];
  std::vector<std::string> known;
  for (const auto& [name, architecture] : architectures()) known.push_back(name);
  // The name is foreign text of any length.
  if (names[0].size() > 80 || in_quotes(names[0]).size() != names[0].size() + 2)
    json.refuse("architectures", "one of " + join(known, ", "));
  bad_input("{}: 'architectures': {}", json.where(), unknown_name("architecture", names[0], known));
}

void refuse_unsupported(const JsonObject& json, const ModelConfig& config) {
  if (json.has("quantization_config"))
    json.refuse("quantization_config", "none: only checkpoints in F32, F16 or BF16 are supported");
  if (json.boolean_or(false, "use_sliding_window"))
    json.refuse("use_sliding_window", "false: only full attention is supported");
  if (json.real_or(1.0, "partial_rotary_factor", {0, 1}) != 1.0)
    json.refuse("partial_rotary_factor", "1: only rotation of whole heads is supported");
  if (json.has("hidden_act") && json.text("hidden_act") != "silu")
    json.refuse("hidden_act", "'silu', the only activation that is supported");
  if (!json.has("layer_types")) return;
  const std::vector<std::string> types = json.texts("layer_types");
  if (std::ssize(types) != config.layers)
    json.refuse("layer_types", fmt::format("num_hidden_layers = {} entries", config.layers));
  for (size_t i = 0; i < types.size(); ++i)
    if (types[i] != "full_attention")
      bad_input("{}: 'layer_types'[{}] is {}, expected 'full_attention', the only type that is supported",
                json.where(), i, in_quotes(types[i]));
}

void read_sizes(const JsonObject& json, ModelConfig& config) {
  config.vocab = json.integer("vocab_size", kVocab);
  config.hidden = json.integer("hidden_size", kWidth);
  config.intermediate = json.integer("intermediate_size", kWidth);
  config.layers = json.integer("num_hidden_layers", kLayers);
  config.heads = json.integer("num_attention_heads", kHeads);
  config.kv_heads = json.integer_or(config.heads, "num_key_value_heads", kHeads);
  config.max_context = json.integer("max_position_embeddings", kContext);
  config.norm_eps = json.real("rms_norm_eps", {1e-12, 0.1});
  config.tied_head = json.boolean_or(false, "tie_word_embeddings");
  if (config.heads % config.kv_heads != 0)
    json.refuse("num_key_value_heads", fmt::format("a divisor of num_attention_heads = {}", config.heads));
  config.head_dim = json.integer_or(config.hidden / config.heads, "head_dim", kHeadDim);
}

// After the architecture's own rules, which may ask for an explicit head_dim.
void check_head_dim(const JsonObject& json, const ModelConfig& config) {
  if (json.has("head_dim")) {
    if (config.head_dim % 2 != 0) json.refuse("head_dim", "an even integer: RoPE rotates pairs");
  } else if (config.hidden % (2 * config.heads) != 0) {
    json.refuse(
        "hidden_size",
        fmt::format("an even multiple of num_attention_heads = {} where there is no head_dim", config.heads));
  }
}

// rope_parameters (transformers 5), or rope_theta and rope_scaling (transformers 4).
void read_rope(const JsonObject& json, ModelConfig& config) {
  constexpr RealRange kTheta{1, 1e12};
  RopeConfig& rope = config.rope;
  rope.theta = json.real_or(rope.theta, "rope_theta", kTheta);
  const bool has_parameters = json.has("rope_parameters");
  if (!has_parameters && !json.has("rope_scaling")) return;
  const JsonObject scaling = json.object(has_parameters ? "rope_parameters" : "rope_scaling");
  if (has_parameters && json.has("rope_scaling") && !(json.object("rope_scaling") == scaling))
    json.refuse("rope_scaling", "none or the same as rope_parameters");

  static const std::vector<std::string> kKnown = {"rope_type",
                                                  "type",
                                                  "rope_theta",
                                                  "factor",
                                                  "low_freq_factor",
                                                  "high_freq_factor",
                                                  "original_max_position_embeddings",
                                                  "partial_rotary_factor"};
  // A key that is passed over may change every rotation.
  for (const std::string& key : scaling.keys())
    if (std::find(kKnown.begin(), kKnown.end(), key) == kKnown.end())
      bad_input("{}: key {} is not supported; known: {}", scaling.where(), in_quotes(key),
                join(kKnown, ", "));

  const char* type_key = scaling.has("rope_type") || !scaling.has("type") ? "rope_type" : "type";
  const std::string type = scaling.has(type_key) ? scaling.text(type_key) : "default";
  if (type != "default" && type != "llama3") scaling.refuse(type_key, "'default' or 'llama3'");
  rope.theta = scaling.real_or(rope.theta, "rope_theta", kTheta);
  if (scaling.real_or(1.0, "partial_rotary_factor", {0, 1}) != 1.0)
    scaling.refuse("partial_rotary_factor", "1: only rotation of whole heads is supported");
  if (type == "default") return;

  rope.llama3_scaling = true;
  rope.factor = scaling.real("factor", {1, kPositive.high});
  rope.low_freq_factor = scaling.real("low_freq_factor", kPositive);
  rope.high_freq_factor = scaling.real("high_freq_factor", kPositive);
  rope.original_context = static_cast<double>(scaling.integer("original_max_position_embeddings", kContext));
  if (rope.high_freq_factor <= rope.low_freq_factor)
    scaling.refuse("high_freq_factor", fmt::format("more than low_freq_factor = {}", rope.low_freq_factor));
}

// An id, a list of them, or null.
std::vector<int64_t> token_ids(const JsonObject& json, std::string_view key, int64_t vocab) {
  const IntegerRange ids{0, vocab - 1};
  if (!json.has(key)) return {};
  if (json.is_list(key)) return json.integers(key, ids);
  return {json.integer(key, ids)};
}

void add_eos_tokens(const JsonObject& json, ModelConfig& config) {
  for (const int64_t id : token_ids(json, "eos_token_id", config.vocab))
    if (std::find(config.eos_tokens.begin(), config.eos_tokens.end(), id) == config.eos_tokens.end())
      config.eos_tokens.push_back(id);
}

}  // namespace

ModelConfig read_model_config(const std::filesystem::path& folder) {
  std::error_code code;
  if (!std::filesystem::is_directory(folder, code)) bad_input("{}: no such model folder", folder.string());
  const JsonObject json = JsonObject::read(folder / "config.json", "model configuration");
  ModelConfig config;
  config.architecture = architecture_name(json);
  read_sizes(json, config);
  refuse_unsupported(json, config);
  read_rope(json, config);
  const std::vector<int64_t> bos = token_ids(json, "bos_token_id", config.vocab);
  if (bos.size() > 1) json.refuse("bos_token_id", "one id");
  if (!bos.empty()) config.bos_token = bos[0];
  add_eos_tokens(json, config);
  architectures().find(config.architecture)->second(json, config);
  check_head_dim(json, config);

  if (const auto path = folder / "generation_config.json"; std::filesystem::exists(path, code))
    add_eos_tokens(JsonObject::read(path, "generation configuration"), config);
  return config;
}

}  // namespace grinqh
