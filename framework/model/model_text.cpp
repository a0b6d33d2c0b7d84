#include "model/model_text.h"

#include "model/synthetic.h"

namespace grinqh {

ModelText::ModelText(const Model& model) : vocab_(model.config.vocab) {
  if (!model.synthetic) tokenizer_.emplace(model.folder / "tokenizer.json");
}

std::vector<int32_t> ModelText::encode(std::string_view text, std::string_view source) const {
  return tokenizer_ ? encode_for_model(*tokenizer_, text, vocab_, source) : synthetic_tokens(text, vocab_);
}

}  // namespace grinqh
