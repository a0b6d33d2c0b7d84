#include "model/bpe.h"

#include "core/error.h"

namespace grinqh {

namespace {

void check_options(const JsonPart& model) {
  // Files of the first versions leave the type out; then the kind of the other keys tells.
  if (const JsonPart type = model["type"]; !type.absent() && type.text() != "BPE") type.refuse("\"BPE\"");
  model.only({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
              "byte_fallback", "ignore_merges", "vocab", "merges"});
  for (const char* key : {"dropout", "unk_token"}) model[key].must_be_off(nullptr);
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) model[key].must_be_off("");
  for (const char* key : {"fuse_unk", "byte_fallback"}) model[key].must_be_off(false);
  if (const JsonPart vocab = model["vocab"]; !vocab.absent()) vocab.refuse("an object of tokens and ids");
  if (const JsonPart merges = model["merges"]; !merges.absent()) merges.refuse("an array of pairs");
}

}  // namespace

Bpe::Bpe(const TokenizerFile& file, const JsonPart& model)
    : file_(file.name),
      vocabulary_((check_options(model), file.vocab), file.name),
      merges_(file.merges.size()) {
  if (!file.has_merges) model["merges"].refuse("an array of pairs");
  if (const JsonPart ignore = model["ignore_merges"]; !ignore.null()) ignore_merges_ = ignore.boolean();
  for (int byte = 0; byte < 256; ++byte)
    byte_ids_[byte] = vocabulary_.find_bytes(std::string(1, static_cast<char>(byte))).value_or(-1);

  std::string merged;
  for (size_t rank = 0; rank < file.merges.size(); ++rank) {
    const auto& [left, right] = file.merges[rank];
    const auto id_of = [&](const std::string& token) {
      if (const auto id = vocabulary_.find_token(token)) return *id;
      bad_input("{}: model.merges[{}] ({} and {}) needs {}, which is not in model.vocab", file.name, rank,
                json_text(left), json_text(right), json_text(token));
    };
    merged.assign(left).append(right);
    const int32_t left_id = id_of(left), right_id = id_of(right);
    merges_.set(left_id, right_id, {static_cast<int32_t>(rank), id_of(merged)});
  }
}

int32_t Bpe::byte_id(unsigned char byte) const {
  if (byte_ids_[byte] < 0)
    bad_input("{}: model.vocab has no token for byte 0x{:02X} of the text", file_, byte);
  return byte_ids_[byte];
}

}  // namespace grinqh
