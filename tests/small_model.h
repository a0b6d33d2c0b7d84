// Models of two small blocks with random weights, one for every feature of an architecture.
#pragma once

#include <functional>
#include <memory>

#include "model_files.h"
#include "runtime/transformer.h"
#include "support.h"

namespace grinqh::testing {

// The tiny model's tensors with as many blocks as the configuration says, and the biases and norms it names.
inline std::vector<NamedShape> small_tensors(const Json& config) {
  std::vector<NamedShape> tensors;
  const bool qwen3 = config["architectures"][0] == "Qwen3ForCausalLM";
  const bool all_attention = config.value("attention_bias", false), mlp = config.value("mlp_bias", false);
  const bool qkv = all_attention || config["architectures"][0] == "Qwen2ForCausalLM";
  for (const NamedShape& tensor : tiny_tensors()) {
    if (!tensor.name.starts_with("model.layers.0.")) {
      tensors.push_back(tensor);
      continue;
    }
    for (int block = 0; block < config["num_hidden_layers"]; ++block) {
      NamedShape here = tensor;
      here.name.replace(13, 1, std::to_string(block));
      tensors.push_back(here);
      const std::string layer = here.name.substr(0, here.name.rfind('.'));
      const bool output = layer.ends_with(".o_proj"), attention = layer.find("self_attn") != layer.npos;
      if (here.shape.size() == 2 && (!attention ? mlp : output ? all_attention : qkv))
        tensors.push_back({layer + ".bias", {here.shape[0]}});
      if (qwen3 && output)
        for (const char* norm : {".q_norm.weight", ".k_norm.weight"})
          tensors.push_back({layer.substr(0, layer.rfind('.')) + norm, {4}});
    }
  }
  return tensors;
}

// `change` may set values of a tensor before it is written.
using ChangeTensor = std::function<void(const std::string& name, std::vector<float>& values)>;

class SmallModel {
 public:
  explicit SmallModel(const Json& changes = Json::object(), const ChangeTensor& change = {}) {
    Json config = tiny_config();
    config["num_hidden_layers"] = 2;
    config.update(changes);
    write_file(folder_ / "config.json", config.dump());
    SafetensorsWriter file;
    for (const NamedShape& tensor : small_tensors(config)) {
      std::vector<float> values = values_of(tensor);
      if (change) change(tensor.name, values);
      file.add_floats(tensor.name, tensor.shape, values);
    }
    file.write(folder_ / "model.safetensors");
    model_ = load_model(folder_.path());
    transformer_ = std::make_unique<Transformer>(model_);
  }

  const Model& model() const { return model_; }
  const Transformer& transformer() const { return *transformer_; }

 private:
  TempDir folder_;
  Model model_;
  std::unique_ptr<Transformer> transformer_;
};

}  // namespace grinqh::testing
