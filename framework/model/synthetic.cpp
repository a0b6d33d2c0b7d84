#include "model/synthetic.h"

#include <algorithm>
#include <cmath>

#include "core/digest.h"
#include "core/error.h"
#include "core/text.h"

namespace grinqh {

namespace {

struct Preset {
  const char* name;
  ModelConfig config;
};

ModelConfig llama(int64_t hidden, int64_t intermediate, int64_t layers, int64_t head_dim, double factor,
                  bool tied) {
  ModelConfig c;
  c.architecture = "LlamaForCausalLM";
  c.vocab = 128256;
  c.hidden = hidden;
  c.intermediate = intermediate;
  c.layers = layers;
  c.heads = 32;
  c.kv_heads = 8;
  c.head_dim = head_dim;
  c.max_context = 131072;
  c.norm_eps = 1e-5;
  c.rope = {500000.0, true, factor, 1.0, 4.0, 8192};
  c.tied_head = tied;
  c.bos_token = 128000;
  c.eos_tokens = {128001};
  return c;
}

ModelConfig qwen3(int64_t hidden, int64_t intermediate, int64_t layers, int64_t heads, bool tied) {
  ModelConfig c;
  c.architecture = "Qwen3ForCausalLM";
  c.vocab = 151936;
  c.hidden = hidden;
  c.intermediate = intermediate;
  c.layers = layers;
  c.heads = heads;
  c.kv_heads = 8;
  c.head_dim = 128;
  c.max_context = 40960;
  c.norm_eps = 1e-6;
  c.rope.theta = 1e6;
  c.tied_head = tied;
  c.qk_norm = true;
  c.eos_tokens = {151645};
  return c;
}

// Shapes: the models' cards.
const std::vector<Preset>& presets() {
  static const std::vector<Preset> all{{"llama-3.1-8b", llama(4096, 14336, 32, 128, 8, false)},
                                       {"llama-3.2-1b", llama(2048, 8192, 16, 64, 32, true)},
                                       {"qwen3-8b", qwen3(4096, 12288, 36, 32, false)},
                                       {"qwen3-0.6b", qwen3(1024, 3072, 28, 16, true)}};
  return all;
}

class Weights {
 public:
  TensorView matrix(int64_t rows, int64_t cols, double deviation) {
    return generated_tensor({rows, cols}, {next_stream(), static_cast<float>(deviation)});
  }
  TensorView norm(int64_t size) {
    const GeneratedValues values{next_stream()};
    const auto weights = std::make_shared<MatrixBuffer<uint16_t>>(1, size);
    for (int64_t i = 0; i < size; ++i)
      weights->data()[i] = nearest_bf16(std::exp(0.5f * nearly_normal(values.bits(i))));
    return {DType::bf16,
            {size},
            std::as_bytes(std::span<const uint16_t>(weights->data(), static_cast<size_t>(size))),
            weights};
  }

 private:
  uint64_t next_stream() { return mixed_bits(++tensors_ * 0x9e3779b97f4a7c15u); }

  uint64_t tensors_ = 0;
};

}  // namespace

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const Preset& each : presets()) names.emplace_back(each.name);
  return names;
}

bool is_preset(std::string_view name) {
  return std::ranges::any_of(presets(), [&](const Preset& each) { return each.name == name; });
}

Model make_preset(std::string_view name) {
  const auto found = std::ranges::find(presets(), name, &Preset::name);
  if (found == presets().end()) bad_input("{}", unknown_name("preset", name, preset_names()));
  return make_synthetic(found->config, found->name);
}

Model make_synthetic(ModelConfig config, const std::string& name) {
  Model model;
  model.folder = name;
  model.synthetic = true;
  model.config = std::move(config);
  const ModelConfig& c = model.config;
  Weights weights;
  const int64_t q_width = c.heads * c.head_dim, kv_width = c.kv_heads * c.head_dim;
  const auto linear = [&](const std::string& id, int64_t out, int64_t in, double share = 1.0) {
    return LinearWeights{id, weights.matrix(out, in, share / std::sqrt(static_cast<double>(in))), {}};
  };
  const double writer = 1.0 / std::sqrt(2.0 * static_cast<double>(c.layers));
  model.embedding = weights.matrix(c.vocab, c.hidden, 1.0);
  model.final_norm = weights.norm(c.hidden);
  model.head = c.tied_head
                   ? model.embedding
                   : weights.matrix(c.vocab, c.hidden, 1.0 / std::sqrt(static_cast<double>(c.hidden)));
  for (int64_t i = 0; i < c.layers; ++i) {
    const std::string block = fmt::format("model.layers.{}.", i);
    BlockWeights& b = model.blocks.emplace_back();
    b.attention_norm = weights.norm(c.hidden);
    b.mlp_norm = weights.norm(c.hidden);
    if (c.qk_norm) {
      b.q_norm = weights.norm(c.head_dim);
      b.k_norm = weights.norm(c.head_dim);
    }
    b.q = linear(block + "self_attn.q_proj", q_width, c.hidden);
    b.k = linear(block + "self_attn.k_proj", kv_width, c.hidden);
    b.v = linear(block + "self_attn.v_proj", kv_width, c.hidden);
    b.o = linear(block + "self_attn.o_proj", c.hidden, q_width, writer);
    b.gate = linear(block + "mlp.gate_proj", c.intermediate, c.hidden);
    b.up = linear(block + "mlp.up_proj", c.intermediate, c.hidden);
    b.down = linear(block + "mlp.down_proj", c.hidden, c.intermediate, writer);
  }
  model.digest = digest_of(fmt::format("synthetic 1 {} {} {} {} {} {}", name, c.vocab, c.hidden,
                                       c.intermediate, c.layers, c.heads));
  return model;
}

std::vector<int32_t> synthetic_tokens(std::string_view text, int64_t vocab) {
  constexpr size_t kBytes = 4;
  std::vector<int32_t> tokens;
  for (size_t at = 0; at + kBytes <= text.size(); at += kBytes) {
    uint64_t word = 0;
    for (size_t i = 0; i < kBytes; ++i) word = word << 8 | static_cast<unsigned char>(text[at + i]);
    tokens.push_back(static_cast<int32_t>(mixed_bits(word) % static_cast<uint64_t>(vocab)));
  }
  return tokens;
}

}  // namespace grinqh
