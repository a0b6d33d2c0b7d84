// A decoder-only transformer as loaded: configuration, and weights as views into the mapped checkpoint.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "model/checkpoint.h"
#include "model/config.h"

namespace grinqh {

// One linear layer: y = x weight^T + bias. Its id is the checkpoint's name without ".weight".
struct LinearWeights {
  std::string id;     // "model.layers.0.self_attn.q_proj"
  TensorView weight;  // [out, in]
  TensorView bias;    // [out] or empty
};

struct BlockWeights {
  TensorView attention_norm, mlp_norm;  // [hidden]
  TensorView q_norm, k_norm;            // [head_dim] or empty
  LinearWeights q, k, v, o, gate, up, down;
};

struct Model {
  std::filesystem::path folder;  // or the name of a preset
  bool synthetic = false;        // of random weights, without a folder (model/synthetic.h)
  ModelConfig config;
  TensorView embedding;   // [vocab, hidden]
  TensorView final_norm;  // [hidden]
  TensorView head;        // [vocab, hidden]; the embedding's bytes if tied
  std::vector<BlockWeights> blocks;
  std::string digest;                            // of config and weights
  std::shared_ptr<const Checkpoint> checkpoint;  // keeps the mapping alive

  std::string name() const;  // last component of the folder
};

// A preset's name stands for the model it names. BadInput for whatever is wrong with the folder: see
// Checkpoint and read_model_config.
Model load_model(const std::filesystem::path& folder);

}  // namespace grinqh
