// Small random models that between them have what transforms must mind: biases everywhere, norms of q and k,
// grouped queries and none, a head that shares the embedding.
#pragma once

#include <map>
#include <string>

#include "core/rng.h"
#include "model/model.h"
#include "model_files.h"
#include "runtime/transformer.h"
#include "support.h"

namespace grinqh::testing {

inline MatrixBuffer<int32_t> random_windows(int64_t vocab, int64_t count, int64_t context, uint64_t seed) {
  MatrixBuffer<int32_t> windows(count, context);
  Rng rng(seed);
  for (int64_t i = 0; i < windows.size(); ++i)
    windows.data()[i] = static_cast<int32_t>(rng.below(static_cast<uint64_t>(vocab)));
  return windows;
}

// Of all windows, one after the other. [tokens, vocab]
inline MatrixBuffer<float> logits_on(const Model& model, Matrix<const int32_t> windows) {
  const Transformer transformer(model);
  FloatLinears linears;
  const MatrixBuffer<float> features = transformer.run(Batch::of_windows(windows, windows.cols), linears);
  MatrixBuffer<float> logits(features.rows(), transformer.vocab());
  transformer.head(features, logits);
  return logits;
}

struct TransformModels {
  static const TransformModels& get() {
    static const TransformModels models;
    return models;
  }

  std::map<std::string, Model> models;

 private:
  TransformModels() {
    add("llama_biases", {{"attention_bias", true}, {"mlp_bias", true}},
        {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
         "mlp.up_proj", "mlp.down_proj"});
    add("qwen2_bias", {{"architectures", {"Qwen2ForCausalLM"}}, {"num_key_value_heads", 4}},
        {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"});
    add("qwen3_tied", {{"architectures", {"Qwen3ForCausalLM"}}, {"tie_word_embeddings", true}}, {});
  }

  void add(const std::string& name, const Json& changes, const std::vector<std::string>& biased) {
    Json config = tiny_config();
    config.update(changes);
    std::vector<NamedShape> tensors = tiny_tensors();
    if (config["tie_word_embeddings"] == true)
      std::erase_if(tensors, [](const NamedShape& tensor) { return tensor.name == "lm_head.weight"; });
    const std::string block = "model.layers.0.";
    for (NamedShape& tensor : tensors)
      if (config["num_key_value_heads"] == 4 && tensor.shape[0] == 8) tensor.shape[0] = 16;
    for (const std::string& layer : biased)
      for (const NamedShape& tensor : std::vector<NamedShape>(tensors))
        if (tensor.name == block + layer + ".weight")
          tensors.push_back({block + layer + ".bias", {tensor.shape[0]}});
    if (config["architectures"][0] == "Qwen3ForCausalLM")
      for (const char* norm : {"self_attn.q_norm.weight", "self_attn.k_norm.weight"})
        tensors.push_back({block + norm, {4}});
    const std::filesystem::path folder = folder_ / name;
    std::filesystem::create_directories(folder);
    write_file(folder / "config.json", config.dump(1));
    SafetensorsWriter file;
    add_tensors(file, tensors);
    file.write(folder / "model.safetensors");
    models.emplace(name, load_model(folder));
  }

  TempDir folder_;
};

}  // namespace grinqh::testing
