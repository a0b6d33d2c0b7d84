#include "core/progress.h"
#include "core/rng.h"
#include "experiment/transforms.h"

namespace grinqh {

namespace {

// Weights from a sequence of random numbers.
class RandomTensors {
 public:
  TensorView matrix(int64_t rows, int64_t cols) {
    MatrixBuffer<float> values(rows, cols);
    for (int64_t i = 0; i < values.size(); ++i) values.data()[i] = static_cast<float>(0.2 * rng_.normal());
    return owned_tensor(std::move(values));
  }
  TensorView norm(int64_t size) {
    std::vector<float> values;
    for (int64_t i = 0; i < size; ++i) values.push_back(static_cast<float>(1 + 0.1 * rng_.normal()));
    return owned_tensor(values);
  }

 private:
  Rng rng_{3};
};

Model random_model() {
  Model model;
  ModelConfig& config = model.config;
  config.vocab = 50;
  config.hidden = 24;
  config.intermediate = 40;
  config.layers = 1;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 8;
  config.max_context = 64;
  RandomTensors random;
  const int64_t q = config.heads * config.head_dim, kv = config.kv_heads * config.head_dim;
  model.embedding = random.matrix(config.vocab, config.hidden);
  model.head = random.matrix(config.vocab, config.hidden);
  model.final_norm = random.norm(config.hidden);
  BlockWeights& block = model.blocks.emplace_back();
  block.attention_norm = random.norm(config.hidden);
  block.mlp_norm = random.norm(config.hidden);
  block.q = {"q", random.matrix(q, config.hidden), {}};
  block.k = {"k", random.matrix(kv, config.hidden), {}};
  block.v = {"v", random.matrix(kv, config.hidden), {}};
  block.o = {"o", random.matrix(config.hidden, q), {}};
  block.gate = {"gate", random.matrix(config.intermediate, config.hidden), {}};
  block.up = {"up", random.matrix(config.intermediate, config.hidden), {}};
  block.down = {"down", random.matrix(config.hidden, config.intermediate), {}};
  return model;
}

}  // namespace

void rehearse_transforms(const std::vector<PluginSpec>& transforms) {
  if (transforms.empty()) return;
  constexpr int64_t kWindows = 2, kContext = 16;
  const Model model = random_model();
  MatrixBuffer<int32_t> windows(kWindows, kContext);
  Rng rng(4);
  for (int64_t i = 0; i < windows.size(); ++i)
    windows.data()[i] = static_cast<int32_t>(rng.below(static_cast<uint64_t>(model.config.vocab)));
  try {
    apply_transforms(transforms, model, windows, 0, {}, false);
  } catch (const BadInput& error) {
    bad_input("{}: {}", transforms.front().where, error.what());
  }
}

}  // namespace grinqh
