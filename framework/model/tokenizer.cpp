#include "model/tokenizer.h"

#include <algorithm>

#include "core/error.h"
#include "model/added_tokens.h"
#include "model/bpe.h"
#include "model/bpe_encoder.h"
#include "model/normalizer.h"
#include "model/post_processor.h"
#include "model/pre_tokenizer.h"
#include "model/tokenizer_file.h"
#include "model/utf8.h"

namespace grinqh {

namespace {

void check_decoder(const JsonPart& part) {
  if (part.null()) part.refuse("{\"type\": \"ByteLevel\"}");
  if (const JsonPart type = part["type"]; type.text() != "ByteLevel") type.refuse("\"ByteLevel\"");
  part.only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
}

JsonPart checked_root(const TokenizerFile& file) {
  const JsonPart root(file.parts, file.name);
  root.only({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
             "post_processor", "decoder", "model"});
  root["version"].must_be_off("1.0");
  root["truncation"].must_be_off(nullptr);
  root["padding"].must_be_off(nullptr);
  check_decoder(root["decoder"]);
  return root;
}

}  // namespace

struct Tokenizer::Impl {
  std::string file;
  Bpe bpe;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  AddedTokens added;
  PostProcessor post_processor;

  explicit Impl(const TokenizerFile& source) : Impl(source, checked_root(source)) {}

  Impl(const TokenizerFile& source, const JsonPart& root)
      : file(source.name),
        bpe(source, root["model"]),
        normalizer(root["normalizer"]),
        pre_tokenizer(root["pre_tokenizer"], source.name),
        added(root["added_tokens"], bpe.vocabulary(), normalizer),
        post_processor(root["post_processor"], [this](int64_t id) { return is_token(id); }) {}

  int64_t id_end() const { return std::max(bpe.vocabulary().id_end(), added.id_end()); }
  bool is_token(int64_t id) const {
    if (id < 0 || id >= id_end()) return false;
    return bpe.vocabulary().contains(static_cast<int32_t>(id)) || added.find(static_cast<int32_t>(id));
  }

  void encode_text(std::string_view text, std::vector<int32_t>& ids) const {
    BpeEncoder encoder(bpe);
    std::string buffer;
    const auto on_word = [&](std::string_view word) { encoder.encode(word, ids); };
    const auto on_normalized = [&](const AddedToken* token, std::string_view piece) {
      if (token != nullptr)
        ids.push_back(token->id);
      else
        pre_tokenizer.split(piece, on_word);
    };
    added.in_raw_text().split(text, [&](const AddedToken* token, std::string_view piece) {
      if (token != nullptr)
        ids.push_back(token->id);
      else
        added.in_normalized_text().split(normalizer.apply(piece, buffer), on_normalized);
    });
  }
};

Tokenizer::Tokenizer(const std::filesystem::path& tokenizer_json)
    : impl_(std::make_unique<Impl>(TokenizerFile(tokenizer_json))) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool special) const {
  // ICU and the positions within a word count in 32 bits; normalization may lengthen text threefold.
  constexpr size_t kMaxText = INT32_MAX / 4;
  if (text.size() > kMaxText) bad_input("text of {} bytes; at most {} at once", text.size(), kMaxText);
  if (const size_t offset = find_invalid_utf8(text); offset != std::string_view::npos)
    bad_input("the text is no valid UTF-8: byte 0x{:02X} at offset {}",
              static_cast<unsigned char>(text[offset]), offset);
  std::vector<int32_t> ids;
  if (special) ids = impl_->post_processor.before;
  impl_->encode_text(text, ids);
  if (special) ids.insert(ids.end(), impl_->post_processor.after.begin(), impl_->post_processor.after.end());
  return ids;
}

std::string Tokenizer::decode(const std::vector<int32_t>& ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) {
    const AddedToken* token = impl_->added.find(id);
    if (token == nullptr)
      bytes += impl_->bpe.vocabulary().bytes(id);
    else if (!token->special || !skip_special)
      bytes += token->bytes;
  }
  return replace_invalid_utf8(bytes);
}

int64_t Tokenizer::vocab() const { return impl_->id_end(); }

bool Tokenizer::adds_bos() const { return !impl_->post_processor.before.empty(); }

std::vector<int32_t> encode_for_model(const Tokenizer& tokenizer, std::string_view text, int64_t vocab,
                                      std::string_view source) {
  std::vector<int32_t> ids;
  try {
    ids = tokenizer.encode(text);
  } catch (const BadInput& error) {
    bad_input("{}: {}", source, error.what());
  }
  const auto largest = std::ranges::max_element(ids);
  if (largest != ids.end() && *largest >= vocab)
    bad_input("{}: has token {}, the model's vocabulary ends at {}: is tokenizer.json another model's?",
              source, *largest, vocab - 1);
  return ids;
}

}  // namespace grinqh
