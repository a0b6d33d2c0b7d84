// The embedded models and their tokens of the held-out text, loaded once a program.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/text.h"
#include "model/model.h"
#include "model/tokenizer.h"
#include "runtime/transformer.h"
#include "support.h"

namespace grinqh::testing {

struct EmbeddedModel {
  explicit EmbeddedModel(const std::filesystem::path& folder)
      : model(load_model(folder)), transformer(model), tokens(held_out(folder)) {}

  // Windows side by side from the head of the text.
  Matrix<const int32_t> windows(int64_t count, int64_t context) const {
    return {tokens.data(), count, context};
  }

  Model model;
  Transformer transformer;
  std::vector<int32_t> tokens;

 private:
  static std::vector<int32_t> held_out(const std::filesystem::path& folder) {
    const std::string text =
        read_file((source_dir() / "experiments/data/held_out.txt").string(), "held-out text");
    return Tokenizer(folder / "tokenizer.json").encode(text);
  }
};

inline const EmbeddedModel& embedded_model(const std::string& name) {
  static std::map<std::string, std::unique_ptr<EmbeddedModel>> loaded;
  auto& model = loaded[name];
  if (!model) model = std::make_unique<EmbeddedModel>(source_dir() / "experiments/models" / name);
  return *model;
}

inline MatrixBuffer<float> logits_of(const Transformer& transformer, const MatrixBuffer<float>& features) {
  MatrixBuffer<float> logits(features.rows(), transformer.vocab());
  transformer.head(features, logits);
  return logits;
}

}  // namespace grinqh::testing
