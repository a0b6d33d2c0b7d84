// Texts as a model's tokens: by the tokenizer in its folder, or by what stands for one where the model is
// synthetic.
#pragma once

#include <optional>

#include "model/model.h"
#include "model/tokenizer.h"

namespace grinqh {

class ModelText {
 public:
  // BadInput for a tokenizer that is missing or malformed.
  explicit ModelText(const Model& model);

  // Without special tokens. BadInput naming the `source` as encode_for_model().
  std::vector<int32_t> encode(std::string_view text, std::string_view source) const;
  bool adds_bos() const { return tokenizer_ && tokenizer_->adds_bos(); }

 private:
  int64_t vocab_;
  std::optional<Tokenizer> tokenizer_;
};

}  // namespace grinqh
